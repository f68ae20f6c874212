"""The recipe of a run: every value with its reason, read from a YAML file and the command line."""

import difflib
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

import yaml
from transformers import HfArgumentParser

from ..data import AugmentationOptions, SamplingOptions


def _with(help: str, default: Any) -> Any:
    """A field with its reason."""
    return field(default=default, metadata={"help": help})


def _check(
    section: Any, positive: Sequence[str] = (), not_negative: Sequence[str] = (), shares: Sequence[str] = ()
) -> None:
    for name in positive:
        if not getattr(section, name) > 0:
            raise ValueError(f"{name} must be positive, got {getattr(section, name)}.")
    for name in not_negative:
        if not getattr(section, name) >= 0:
            raise ValueError(f"{name} must not be negative, got {getattr(section, name)}.")
    for name in shares:
        if not 0 <= getattr(section, name) <= 1:
            raise ValueError(f"{name} must lie in [0, 1], got {getattr(section, name)}.")


def _json_object(name: str, text: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"{name} is not JSON: {text!r} ({error}).") from error
    if not isinstance(value, dict):
        raise ValueError(f"{name} must be a JSON object such as {{}}, got {text!r}.")
    return value


@dataclass(kw_only=True)
class ModelOptions:
    """What is trained."""

    base: str = _with(
        "what training starts from: 'tiny' or 'unet' (random weights), 'cfsam-tiny' (the bundled checkpoint), or "
        "folder or Hub id of a SamModel or of a CF-SAM checkpoint, or folder of a trained U-Net",
        "facebook/sam-vit-base",
    )
    train_encoder: bool = _with(
        "train the SAM encoder too. Only to make a small backbone: adapting SAM means leaving it as it is", False
    )
    model_options: str = _with(
        "JSON (in YAML a mapping) of fields of CfSamConfig, or of UNetConfig for a U-Net, that differ from the base's",
        "{}",
    )
    type_trunk_weights: str = _with(
        "safetensors file with weights for the type branch's trunk, where the base has none: from "
        "examples/tools/convert_efficientnet_lite.py, or the model.safetensors of a checkpoint with a type branch",
        "",
    )
    train_types_alone: bool = _with(
        "train the type branch and leave all else, and so every outline, as it is: for new types on few tiles", False
    )

    _argument_group_name = "model"

    def __post_init__(self):
        self.settings()

    def settings(self) -> dict[str, Any]:
        """`model_options` as a dict.

        Raises:
            ValueError: it is no JSON object.
        """
        return _json_object("model_options", self.model_options)


@dataclass(kw_only=True)
class DataOptions:
    """What it is trained on."""

    data: list[str] = field(
        metadata={
            "help": "one item per folder: reader=NAME,path=FOLDER[,split=FILE][,train=FOLDS,validation=FOLDS]"
            "[,weight=NUMBER][,name=NAME][,types=FILE or none], in YAML also a mapping. Of a folder with a split file "
            "only the tiles that it names are used, with folds (such as 1+2) those; with neither all are trained on"
        }
    )
    data_root: str = _with("folder that relative paths of data items start from: where a machine keeps its data", ".")
    crop_size: int = _with("pixels; 256 is the tile size of PanNuke and of cfsam-tiny", 256)
    augmentation: Literal["none", "light", "standard", "strong"] = _with(
        "preset of AugmentationOptions: light for data much like what the weights were made from, strong for few "
        "tiles or slides of other laboratories to be met later",
        "standard",
    )
    augmentation_options: str = _with(
        "JSON (in YAML a mapping) of fields of AugmentationOptions that differ from the preset's", "{}"
    )
    num_workers: int = _with("processes that make crops, per training process; 0 makes them in it", 1)

    _argument_group_name = "data"

    def __post_init__(self):
        _check(self, positive=("crop_size",), not_negative=("num_workers",))
        self.augmentation_settings()

    def augmentation_settings(self) -> AugmentationOptions | None:
        """What is done to crops; `None` leaves them upright and as they are.

        Raises:
            ValueError: `augmentation_options` has an unknown field or a value that is out of its range.
        """
        changes = _json_object("augmentation_options", self.augmentation_options)
        if self.augmentation == "none" and not changes:
            return None
        return AugmentationOptions.preset(self.augmentation, **changes)


@dataclass(kw_only=True)
class OptimizationOptions:
    """How it is trained."""

    steps: int = _with("optimiser steps: the length of the cosine, so it cannot be changed in mid-run", 5000)
    batch_size: int = _with("crops per process that pass at once: what memory holds", 8)
    gradient_accumulation_steps: int = _with(
        "passes per optimiser step. Losses are averages over images, so that processes x passes x batch_size is all "
        "that counts (but for agreement_weight and mixing_probability, which act within each pass and process)",
        1,
    )
    learning_rate: float = _with("peak; 6e-4 from random weights, 3e-4 to adapt SAM", 6e-4)
    mask_decoder_factor: float = _with(
        "rate of SAM's own mask decoder over the rest's: below 1 keeps more of what it was trained to do", 1.0
    )
    type_trunk_factor: float = _with(
        "rate of the type branch's trunk over the rest's: its features come from a million photographs, types from a "
        "few tiles. 0 leaves it as it is",
        0.1,
    )
    weight_decay: float = _with("AdamW's, not on norms, biases and tokens", 0.05)
    beta1: float = _with("AdamW's memory of the gradient", 0.9)
    beta2: float = _with("AdamW's memory of the squared gradient: about 50 steps, for short runs", 0.98)
    warmup_steps: int = _with("linear warm-up, until AdamW's averages mean something", 200)
    final_rate: float = _with("rate at the end of the cosine over the peak", 0.01)
    clip_norm: float = _with("largest norm of the gradient; spikes come from tiles with odd stains", 1.0)
    ema_decay: float = _with("of the averaged weights, which are what is evaluated and kept: ~500 steps", 0.998)
    mixed_precision: Literal["no", "bf16", "fp16"] = _with(
        "bf16 needs no scaling of the loss; fp16 is for GPUs", "bf16"
    )
    agreement_weight: float = _with(
        "each crop is seen twice, shifted and mirrored, and what the two maps disagree in costs so much: nuclei then "
        "depend less on where tiles begin. 4 for the bundled checkpoint; 0: seen once. Takes twice the time a crop",
        0.0,
    )
    mixing_probability: float = _with(
        "of a window to get a rectangle of another crop of its batch, so that types are not read off the tile as a "
        "whole: for few tiles. With agreement_weight only the second of two windows is mixed",
        0.0,
    )
    gradient_checkpointing: bool = _with("encoder layers are computed again in the backward pass: less memory", False)
    compile: bool = _with("torch.compile: a minute at the start, for long runs on a GPU", False)
    seed: int = _with("of new weights, crops and dropout", 0)

    _argument_group_name = "optimization"

    def __post_init__(self):
        _check(
            self,
            positive=(
                *("steps", "batch_size", "gradient_accumulation_steps", "learning_rate", "mask_decoder_factor"),
                "clip_norm",
            ),
            not_negative=("warmup_steps", "weight_decay", "agreement_weight", "type_trunk_factor"),
            shares=("beta1", "beta2", "final_rate", "ema_decay", "mixing_probability"),
        )
        if self.mixing_probability and self.batch_size < 2:
            raise ValueError(
                f"mixing_probability is {self.mixing_probability}, but a batch_size of {self.batch_size} has no "
                "second crop to mix with: make it at least 2, or mixing_probability 0."
            )


@dataclass(kw_only=True)
class RunOptions:
    """What becomes of it."""

    output_dir: str = field(
        metadata={"help": "folder of the run; the same command again goes on from its last checkpoint"}
    )
    log_every: int = _with("steps", 20)
    save_every: int = _with("steps between checkpoints: what a kill may cost", 500)
    keep_checkpoints: int = _with("the last so many stay, and the best", 2)
    evaluate_every: int = _with("steps between validations; 0: only at the end", 1000)
    picture_every: int = _with(
        "steps between pictures of input, truth, prediction and boundary; 0: only at the end", 1000
    )
    best_metric: str = _with("validation score, the higher the better, mean over the data sets", "pq_mean_over_images")
    export: Literal["last", "best"] = _with(
        "which averaged weights become model/: 'best' is chosen on the validation tiles, whose scores then flatter it",
        "last",
    )
    on_nonfinite: Literal["stop", "skip"] = _with(
        "a loss or gradient that is not finite ends the run, or its batch is left out; weights never see it", "stop"
    )
    max_skipped: int = _with("so many batches left out in a row end the run: then it is not the data", 10)
    tile_size: int = _with(
        "pixels of the tiles in validation and of the checkpoint; 0: those of the base where it fits its tiles to the "
        "image, else crop_size",
        0,
    )
    smallest_tile_size: int = _with("with tile_size: tiles are fitted to the image, down to this; 0: they are not", 0)
    tile_overlap: int = _with("pixels in which tiles are blended; of no effect where the base's tiles are kept", 64)
    log_with: list[str] = field(
        default_factory=list,
        metadata={"help": "trackers of Accelerate: tensorboard, trackio, wandb, ...; none needed"},
    )
    progress: bool = _with("show a bar with losses, rate, tiles per second and time left", True)

    _argument_group_name = "run"

    def __post_init__(self):
        _check(
            self,
            positive=("log_every", "save_every", "keep_checkpoints", "max_skipped"),
            not_negative=("evaluate_every", "picture_every", "tile_size", "smallest_tile_size", "tile_overlap"),
        )


# What may differ when a run goes on: none of it changes what is learned. Of the last two only the product of crops per
# step counts, which is compared instead.
MAY_CHANGE = frozenset(
    {
        *("output_dir", "data_root", "num_workers", "log_every", "save_every", "keep_checkpoints", "evaluate_every"),
        *("picture_every", "tile_size", "smallest_tile_size", "tile_overlap", "log_with", "progress", "export"),
        *("best_metric", "on_nonfinite"),
        *("max_skipped", "gradient_checkpointing", "batch_size", "gradient_accumulation_steps"),
    }
)


@dataclass(frozen=True)
class Recipe:
    """Every value of a run, in sections. A file and the command line know the values by their own names alone."""

    model: ModelOptions
    data: DataOptions
    sampling: SamplingOptions
    optimization: OptimizationOptions
    run: RunOptions

    def __post_init__(self):
        if self.model.train_types_alone and self.optimization.agreement_weight:
            raise ValueError(
                f"agreement_weight is {self.optimization.agreement_weight}, but it compares outlines, and "
                "train_types_alone makes none: leave one of them out."
            )

    def to_dict(self) -> dict[str, Any]:
        """All values by name."""
        return {name: value for section in vars(self).values() for name, value in asdict(section).items()}


SECTIONS = (ModelOptions, DataOptions, SamplingOptions, OptimizationOptions, RunOptions)


def read_recipe_file(path: str | Path) -> dict[str, Any]:
    """The values of a YAML file by name.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is no YAML mapping, or holds a name that no recipe has.
    """
    try:
        values = yaml.safe_load(Path(path).read_text(encoding="utf-8")) or {}
    except yaml.YAMLError as error:
        raise ValueError(f"{path} is not YAML: {error}") from error
    if not isinstance(values, dict):
        raise ValueError(f"{path} must hold `name: value` lines, got {values!r}.")
    known = {item.name for section in SECTIONS for item in fields(section)}
    for name in values:
        if name not in known:
            near = difflib.get_close_matches(str(name), known, n=1)
            raise ValueError(f"{path}: no recipe has {name!r}{f'; did you mean {near[0]!r}?' if near else '.'}")
    return values


def _as_arguments(values: dict[str, Any]) -> list[str]:
    """Values as the command line would give them, which then reads both alike ("3e-4" is text to YAML)."""
    defaults = {item.name: item.default for section in SECTIONS for item in fields(section)}
    arguments = []
    for name, value in values.items():
        if isinstance(value, list):
            if value:
                arguments += [f"--{name}", *map(_item_text, value)]
        elif isinstance(value, dict):
            arguments.append(f"--{name}={json.dumps(value)}")
        elif isinstance(value, bool) and not isinstance(defaults.get(name), bool):
            # YAML takes a plain `no` for a truth value.
            arguments.append(f"--{name}={'yes' if value else 'no'}")
        elif value is not None:
            arguments.append(f"--{name}={value}")
    return arguments


def _item_text(value: Any) -> str:
    """A data item that YAML writes as a mapping, as the command line writes it."""
    return ",".join(f"{key}={part}" for key, part in value.items()) if isinstance(value, dict) else str(value)


def parse_recipe(arguments: Sequence[str] | None = None, description: str | None = None) -> Recipe:
    """Reads `[recipe.yaml] [--name value ...]`: first the file, then what the command line says otherwise.

    Args:
        arguments: default: those of this process.
        description: for `--help`.

    Raises:
        OSError: the file cannot be read.
        ValueError: an unknown name in the file, or a value that is out of its range.
        SystemExit: an unknown option, or a value of the wrong kind.
    """
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    from_file: list[str] = []
    if arguments and arguments[0].endswith((".yaml", ".yml")):
        from_file = _as_arguments(read_recipe_file(arguments.pop(0)))
    # Abbreviations would take a mistyped option for another.
    parser = HfArgumentParser(SECTIONS, allow_abbrev=False, description=description)
    *sections, unknown = parser.parse_args_into_dataclasses(
        from_file + arguments, return_remaining_strings=True, look_for_args_file=False
    )
    if unknown:
        parser.error(f"unknown: {' '.join(unknown)}")
    return Recipe(*sections)


def make_recipe(**values: Any) -> Recipe:
    """A recipe from values by name, for programs that train; see [`parse_recipe`]."""
    known = {item.name for section in SECTIONS for item in fields(section)}
    if unknown := sorted(set(values) - known):
        raise ValueError(f"no recipe has {unknown}.")
    values = {name: json.dumps(value) if isinstance(value, dict) else value for name, value in values.items()}
    return Recipe(
        *(section(**{f.name: values[f.name] for f in fields(section) if f.name in values}) for section in SECTIONS)
    )


def differences(before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """What two recipes differ in that changes what is learned, as `name before -> now`.

    A value that an older recipe does not know was what is now its default.
    """
    defaults = {item.name: item.default for section in SECTIONS for item in fields(section)}
    before = {name: defaults[name] for name in now if name in defaults} | before
    names = [name for name in {**before, **now} if name not in MAY_CHANGE]
    return [f"{name} {before.get(name)!r} -> {now.get(name)!r}" for name in names if before.get(name) != now.get(name)]
