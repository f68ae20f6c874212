"""The recipe of a run: every value with its reason, in sections."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Literal

from ..data import AugmentationOptions, SamplingOptions


def _with(help: str, default: Any) -> Any:
    """A field with its help text."""
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
        "where training starts: 'tiny' or 'unet' (random weights), 'cfsam-tiny' or another bundled checkpoint, the "
        "folder or Hub id of a SamModel or of a CF-SAM checkpoint, or the folder of a trained U-Net",
        "facebook/sam-vit-base",
    )
    train_encoder: bool = _with(
        "train the SAM encoder too. Only for making a small backbone: adapting SAM leaves its encoder unchanged", False
    )
    model_options: str = _with(
        "JSON (in YAML a mapping) of fields of CfSamConfig, or of UNetConfig for a U-Net, that differ from the base's",
        "{}",
    )
    type_trunk_weights: str = _with(
        "safetensors file with weights for the trunk (of type_trunk or detail_trunk), if the base has none: made by "
        "examples/tools/convert_efficientnet_lite.py, or the model.safetensors of a checkpoint with a trunk",
        "",
    )
    teacher: str = _with(
        "a trained CF-SAM checkpoint whose maps the model learns beside the labels: a bundled one, a folder or a Hub "
        "id. A data item with taught=false learns from its labels alone",
        "",
    )
    train_types_alone: bool = _with(
        "train the type branch alone, so that every outline stays the same: for new types on few tiles", False
    )

    _argument_group_name = "model"

    def __post_init__(self):
        self.settings()

    def settings(self) -> dict[str, Any]:
        """`model_options` as a dict.

        Raises:
            ValueError: it is not a JSON object.
        """
        return _json_object("model_options", self.model_options)


@dataclass(kw_only=True)
class DataOptions:
    """What the model is trained on."""

    data: list[str] = field(
        default_factory=list,
        metadata={
            "help": "one item per folder: reader=NAME,path=FOLDER[,split=FILE][,train=FOLDS,validation=FOLDS]"
            "[,weight=NUMBER][,name=NAME][,types=FILE or none][,style=NAME][,scale_jitter=NUMBER][,incomplete=true]"
            "[,taught=false], "
            "in YAML also a mapping. A split file or folds (such as 1+2) select the tiles; without either, all tiles "
            "of the folder train"
        },
    )
    data_root: str = _with(
        "folder that relative paths of data items start from, such as the one where this machine keeps its data", "."
    )
    crop_size: int = _with("pixels; 256 is the tile size of PanNuke and of cfsam-tiny", 256)
    augmentation: Literal["none", "light", "standard", "strong"] = _with(
        "preset of AugmentationOptions: light for data like those the base was trained on, strong for few "
        "tiles or for a model that will meet slides of other laboratories",
        "standard",
    )
    augmentation_options: str = _with(
        "JSON (in YAML a mapping) of fields of AugmentationOptions that differ from the preset", "{}"
    )
    num_workers: int = _with(
        "processes that make crops, per training process; 0: the training process itself makes them", 1
    )

    _argument_group_name = "data"

    def __post_init__(self):
        if not self.data:
            raise ValueError("data is missing: name at least one folder, such as reader=consep,path=CoNSeP.")
        _check(self, positive=("crop_size",), not_negative=("num_workers",))
        self.augmentation_settings()

    def augmentation_settings(self) -> AugmentationOptions | None:
        """The augmentation of crops; `None` leaves them unchanged.

        Raises:
            ValueError: `augmentation_options` has an unknown field, or a value outside its range.
        """
        changes = _json_object("augmentation_options", self.augmentation_options)
        if self.augmentation == "none" and not changes:
            return None
        return AugmentationOptions.preset(self.augmentation, **changes)


@dataclass(kw_only=True)
class OptimizationOptions:
    """How the model is trained."""

    steps: int = _with("optimiser steps: the length of the cosine, so it cannot change during a run", 5000)
    batch_size: int = _with("crops per process and pass: as many as fit into memory", 8)
    gradient_accumulation_steps: int = _with(
        "passes per optimiser step. Losses are averages over images, so only processes x passes x batch_size matters "
        "(except for agreement_weight and mixing_probability, which act within each pass and process)",
        1,
    )
    learning_rate: float = _with("its peak: 6e-4 from random weights, 3e-4 to adapt SAM", 6e-4)
    mask_decoder_factor: float = _with(
        "rate of SAM's own mask decoder, relative to the rest: below 1 it keeps more of what it has learned", 1.0
    )
    type_trunk_factor: float = _with(
        "rate of the trunk, relative to the rest: its features come from a million photographs, types from a few "
        "tiles. 0 freezes it",
        0.1,
    )
    weight_decay: float = _with("of AdamW, except on norms, biases and tokens", 0.05)
    beta1: float = _with("AdamW's decay of the averaged gradient", 0.9)
    beta2: float = _with("AdamW's decay of the averaged squared gradient: about 50 steps, for short runs", 0.98)
    warmup_steps: int = _with("length of the linear warm-up, until AdamW's averages are meaningful", 200)
    final_rate: float = _with("rate at the end of the cosine, relative to the peak", 0.01)
    clip_norm: float = _with("largest norm of the gradient; spikes come from tiles with odd stains", 1.0)
    ema_decay: float = _with("of the averaged weights, which are evaluated and exported: about 500 steps", 0.998)
    mixed_precision: Literal["no", "bf16", "fp16"] = _with(
        "bf16 needs no scaling of the loss; fp16 is for GPUs", "bf16"
    )
    agreement_weight: float = _with(
        "weight of a loss on the difference between the maps of each crop and of a shifted, mirrored copy: nuclei "
        "then depend less on where tiles begin. 4 for cfsam-tiny; 0: no copy. Doubles the time per crop",
        0.0,
    )
    teacher_weight: float = _with("weight of the loss on the difference to the teacher's maps, if there is one", 1.0)
    mixing_probability: float = _with(
        "probability that a window gets a rectangle of another crop in its batch, so that types are not read from the "
        "tile as a whole: for few tiles. With agreement_weight only the second of two windows is mixed",
        0.0,
    )
    gradient_checkpointing: bool = _with("recompute encoder layers in the backward pass, which saves memory", False)
    compile: bool = _with("use torch.compile, which takes a minute at the start: for long runs on a GPU", False)
    seed: int = _with("of new weights, crops and dropout", 0)

    _argument_group_name = "optimization"

    def __post_init__(self):
        _check(
            self,
            positive=(
                *("steps", "batch_size", "gradient_accumulation_steps", "learning_rate", "mask_decoder_factor"),
                "clip_norm",
                "teacher_weight",
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
    """Where the run writes, and how often."""

    output_dir: str = _with("folder of the run; the same command again resumes from its last checkpoint", "")
    log_every: int = _with("steps", 20)
    save_every: int = _with("steps between checkpoints: the work that a crash may cost", 500)
    keep_checkpoints: int = _with("how many of the last checkpoints to keep, besides the best", 2)
    evaluate_every: int = _with("steps between validations; 0: only after the last step", 1000)
    picture_every: int = _with(
        "steps between pictures of input, truth, prediction and boundary; 0: only after the last step", 1000
    )
    best_metric: str = _with(
        "validation score that selects the best checkpoint; higher is better; mean over the data sets",
        "pq_mean_over_images",
    )
    export: Literal["last", "best"] = _with(
        "which averaged weights become model/: 'best' is chosen on the validation tiles, so its scores there are too "
        "good",
        "last",
    )
    on_nonfinite: Literal["stop", "skip"] = _with(
        "if a loss or gradient is not finite: stop the run, or skip the batch; either way the weights do not change",
        "stop",
    )
    max_skipped: int = _with(
        "the run ends after this many skipped batches in a row, since the data are then not the cause", 10
    )
    tile_size: int = _with(
        "pixels of the windows in validation and in the exported model; 0: those of the base if it fits its windows "
        "to the image, else crop_size",
        0,
    )
    smallest_tile_size: int = _with(
        "with tile_size: windows are fitted to the image, down to this size; 0: they are not fitted", 0
    )
    tile_overlap: int = _with(
        "pixels over which windows are blended; no effect if the windows of the base are kept", 64
    )
    log_with: list[str] = field(
        default_factory=list,
        metadata={"help": "trackers of Accelerate: tensorboard, trackio, wandb, ...; optional"},
    )
    progress: bool = _with("show a bar with losses, learning rate, tiles per second and time left", True)

    _argument_group_name = "run"

    def __post_init__(self):
        if not self.output_dir:
            raise ValueError("output_dir is missing: name the folder of the run.")
        _check(
            self,
            positive=("log_every", "save_every", "keep_checkpoints", "max_skipped"),
            not_negative=("evaluate_every", "picture_every", "tile_size", "smallest_tile_size", "tile_overlap"),
        )


# Values that may differ in a resumed run, since they do not change what is learned. Of the last two, only the crops
# per step matter, which are compared separately.
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
    """Every value of a run, in sections. Files and the command line name the values without their sections."""

    model: ModelOptions
    data: DataOptions
    sampling: SamplingOptions
    optimization: OptimizationOptions
    run: RunOptions

    def __post_init__(self):
        if self.model.train_types_alone and self.optimization.agreement_weight:
            raise ValueError(
                f"agreement_weight is {self.optimization.agreement_weight}, which compares outlines, but "
                "train_types_alone trains none: remove one of the two."
            )
        if self.model.train_types_alone and self.model.teacher:
            raise ValueError(
                f"teacher is {self.model.teacher}, whose outlines are learned too, but train_types_alone trains none: "
                "remove one of the two."
            )

    def to_dict(self) -> dict[str, Any]:
        """All values by name."""
        return {name: value for section in vars(self).values() for name, value in asdict(section).items()}


SECTIONS = (ModelOptions, DataOptions, SamplingOptions, OptimizationOptions, RunOptions)


def differences(before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """The differences between two recipes that change what is learned, as `name before -> now`.

    A value that is missing from an older recipe had what is now its default.
    """
    defaults = {item.name: item.default for section in SECTIONS for item in fields(section)}
    before = {name: defaults[name] for name in now if name in defaults} | before
    names = [name for name in {**before, **now} if name not in MAY_CHANGE]
    return [f"{name} {before.get(name)!r} -> {now.get(name)!r}" for name in names if before.get(name) != now.get(name)]
