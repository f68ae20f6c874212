"""Fine-tunes a checkpoint on a laboratory's own annotations: a folder of tiles becomes an adapter with scores.

The encoder stays frozen. The recipe is `own_data.yaml` beside this file. Everything that determines what is learned is
first written into the output folder, so that the same call resumes however the process ended.
"""

import copy
import json
import logging
import os
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from torch.utils.data import default_collate
from transformers import PreTrainedModel

from ..bases.bundled import DEFAULT_CHECKPOINT, or_bundled
from ..data import CropDataset, TileRecord
from ..drawing.picture_files import write_picture
from ..evaluation import System, TileScore, checkpoint_system, dataset_record, evaluate_records, results_record
from ..evaluation.before_after import before_after_picture
from ..evaluation.environment import environment
from ..evaluation.report import write_report
from ..evaluation.tables import comparison
from ..files.atomic import staged_folder
from ..files.json_files import finite, write_json
from ..model.checkpoint import check_place, check_source, naming_checkpoint
from ..model.configuration_cfsam import CfSamConfig
from ..model.modeling_cfsam import CfSamForNucleiSegmentation
from ..model.pipeline_cfsam import NucleiSegmentationPipeline
from ..model.pixel_size import check_mpp
from .agreement import training_loss
from .folder_lock import FolderLock
from .launching import full_disk_explained, make_accelerator
from .models import RANDOM_BASES, build_model, build_processor
from .optimization import make_optimizer
from .own_tiles import (
    TileSummary,
    choose_held_out,
    cut_record,
    keep_tiles,
    list_own_tiles,
    part_records,
    summarize_own_tiles,
    unusual,
)
from .recipe import Recipe
from .recipe_reading import make_recipe, read_recipe_file
from .run import TrainingRun
from .tile_digests import changed_tile
from .training_data import build_crops, load_training_data

logger = logging.getLogger(__name__)

RECIPE = Path(__file__).parent / "own_data.yaml"
PLAN, RESULTS, TEXT, PICTURE = "plan.json", "finetune.json", "finetune.md", "before_after.png"
TILES, ADAPTER, LOCK = "tiles", "adapter", ".finetune.lock"
DATASET = "held-out tiles"
FORMAT = "cfsam_hf finetune 1"

WARMUP_SHARE = 10
"""Longest warm-up as a share of a run."""

TIMED_STEPS = 3
"""Steps that are timed to fit a run into a number of minutes, after a first one that is not timed."""


@dataclass(frozen=True, kw_only=True)
class FinetuneOptions:
    """The user's choices; the recipe determines everything else.

    Attributes:
        checkpoint: where training starts: the name of a bundled checkpoint, or the folder or Hub id of a CF-SAM
            checkpoint or of a SAM.
        mpp: micrometres per pixel of the images; None: as each file states it, else the checkpoint's.
        types: names of the types in order; None uses the classes of the GeoJSON files.
        annotated_only: skip images without an annotation.
        held_out: names of tiles to hold out; None draws them; empty holds none out.
        held_out_share: of the tiles, if they are drawn.
        seed: of the draw, the crops and the new weights.
        steps: of the optimiser; None: as in the recipe.
        minutes: limits the steps to as many as fit, by timing some at the start.
        batch_size: crops per step; None: as in the recipe.
        workers: processes that make crops; None: as in the recipe.
        recipe: YAML file instead of `own_data.yaml`.
    """

    checkpoint: str = DEFAULT_CHECKPOINT
    mpp: float | None = None
    types: tuple[str, ...] | None = None
    annotated_only: bool = False
    held_out: tuple[str, ...] | None = None
    held_out_share: float = 0.2
    seed: int = 0
    steps: int | None = None
    minutes: float | None = None
    batch_size: int | None = None
    workers: int | None = None
    recipe: str | None = None

    def __post_init__(self):
        if self.mpp is not None:
            check_mpp(self.mpp)
        if not 0 < self.held_out_share < 1:
            raise ValueError(f"held_out_share must lie between 0 and 1, got {self.held_out_share}.")
        if self.checkpoint in RANDOM_BASES:
            raise ValueError(
                f"{self.checkpoint!r} has random weights, which are useless in a frozen encoder; give a checkpoint."
            )


@dataclass(frozen=True)
class Finetuned:
    """The result of a fine-tuning.

    Attributes:
        folder: with `model/`, `adapter/`, `finetune.json`, `finetune.md`, `before_after.png` and the run's own files.
        results: the content of `finetune.json`.
        table: scores before and after as Markdown; empty if nothing was held out.
        was_done: whether the folder already held this run, finished.
    """

    folder: Path
    results: dict[str, Any]
    table: str
    was_done: bool


def finetune(
    images: str | Path,
    annotations: str | Path,
    output: str | Path,
    options: FinetuneOptions | None = None,
    say: Callable[[str], None] = logger.info,
) -> Finetuned:
    """Trains the adapter of a checkpoint on the user's annotations, and scores it before and after on held-out tiles.

    Args:
        images, annotations: see [`list_own_tiles`].
        output: folder of the run: new, empty, or that of the same call, which is then resumed.
        options: see [`FinetuneOptions`].
        say: receives sentences about the tiles and the run.

    Raises:
        OSError, ValueError: the input or the checkpoint is wrong, and nothing was written; or `output` holds something
            else, or another process is writing there.
        TrainingStopped: a signal, a loss that is not finite, or a full disk.
    """
    options, folder = options or FinetuneOptions(), Path(output)
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise ValueError(
            "fine-tuning runs in one process. To use several, start it in one, then give its recipe.yaml and another "
            "--output_dir to `accelerate launch examples/train.py`"
        )
    base = _base(options.checkpoint)
    records = list_own_tiles(
        images, annotations, mpp=options.mpp, type_names=options.types, annotated_only=options.annotated_only
    )
    tiles = summarize_own_tiles(records)
    plan = {"format": FORMAT, **_asked(options, base), "tile_digests": [tile.digest for tile in tiles]}
    state = _state(folder, plan)
    if state is not None and (folder / RESULTS).is_file():
        results = json.loads((folder / RESULTS).read_text(encoding="utf-8"))
        return Finetuned(folder, results, _table(results), was_done=True)
    parts, notes = _parts(records, tiles, options)
    names = list(records[0].type_names.values()) if any(tile.types for tile in tiles) else []
    recipe = _recipe(options, base, folder, plan if state is None else state)
    set_seed(recipe.optimization.seed)
    with naming_checkpoint(options.checkpoint):
        model = build_model(recipe, names)
    facts = {
        "annotations": "GeoJSON" if records[0].dataset == "qupath" else "label maps",
        "tiles": {part: [r.id for r in parts if r.fold == part] for part in dict.fromkeys(r.fold for r in parts)},
        "nuclei": _counts(tiles),
        "types": list(model.config.type_names.values()),
        "notes": notes + unusual(tiles, model.config.mpp) + _notes(tiles, names, model, options),
    }
    for sentence in _sentences(facts, options):
        say(sentence)
    # From here on files are written. Another process may have done so since the folder was checked.
    folder.mkdir(parents=True, exist_ok=True)
    lock = FolderLock(folder, LOCK)
    state = _state(folder, plan) or plan
    with full_disk_explained(folder):
        write_json(folder / PLAN, state)
        keep_tiles(parts, folder / TILES)
    data = load_training_data(recipe)
    accelerator = make_accelerator(recipe)
    processor = build_processor(recipe, model.config)
    if state.get("steps_planned") is None:
        steps = recipe.optimization.steps
        if options.minutes is not None:
            crops = build_crops(recipe, data, model.config, processor.image_processor, accelerator)
            seconds = _seconds_per_step(recipe, accelerator, model, crops)
            steps = max(1, min(steps, int(options.minutes * 60 / seconds)))
            say(f"{seconds:.2f} s a step: {steps} steps fit into {options.minutes:g} minutes")
        state = {**state, "steps_planned": steps}
        with full_disk_explained(folder):
            write_json(folder / PLAN, state)
        recipe = _recipe(options, base, folder, state)
    crops = build_crops(recipe, data, model.config, processor.image_processor, accelerator)
    run = TrainingRun(recipe, accelerator, data, model, processor, crops)
    run.train()
    run.finish(name=folder.resolve().name)
    done = _finish(folder, run, options, {**state, **facts})
    lock.release()
    return done


def _base(checkpoint: str) -> str:
    """Folder or Hub id of the checkpoint; checked before anything else."""
    base = or_bundled(checkpoint)
    with naming_checkpoint(checkpoint):
        check_place(base, needs_config=True)
        check_source(base, {})
    return base


def _recorded(checkpoint: str, base: str) -> str:
    """How a base is recorded: a bundled checkpoint by its name, which is valid on every machine."""
    return base if or_bundled(checkpoint) == checkpoint else checkpoint


def _asked(options: FinetuneOptions, base: str) -> dict[str, Any]:
    """The options that determine what is learned, without the paths of files and the number of workers."""
    asked = asdict(options)
    recipe = Path(asked.pop("recipe") or RECIPE)
    del asked["workers"]
    asked["checkpoint"] = _recorded(options.checkpoint, base)
    if recipe.suffix not in (".yaml", ".yml"):
        raise ValueError(f"{recipe}: a recipe is a .yaml file")
    # In the form that JSON returns, for the comparison.
    return json.loads(json.dumps({**asked, "recipe": recipe.read_text(encoding="utf-8")}))


def _state(folder: Path, plan: dict[str, Any]) -> dict[str, Any] | None:
    """The plan of the run that the folder holds; None for a new or empty folder.

    Raises:
        OSError: it holds something else.
        ValueError: it holds another run.
    """
    if folder.exists() and not folder.is_dir():
        raise OSError(f"{folder}: is a file, where a folder is needed; choose another")
    if not folder.is_dir() or all(path.name == LOCK for path in folder.iterdir()):
        return None
    try:
        state = json.loads((folder / PLAN).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise OSError(f"{folder}: holds files that do not belong to a fine-tuning; choose another folder") from error
    changed = [name for name in plan if state.get(name) != plan[name]]
    if changed:
        words = []
        for name in changed:
            if name == "tile_digests":
                words.append(
                    changed_tile({"annotated": state.get(name, [])}, {"annotated": plan[name]}) or "the tiles"
                )
            else:
                words.append(name if name == "recipe" else f"{name} {state.get(name)!r} -> {plan[name]!r}")
        raise ValueError(
            f"{folder}: holds a fine-tuning with other tiles or options ({'; '.join(words)}); choose another folder, "
            "or restore what it was started with"
        )
    return state


def _parts(
    records: Sequence[TileRecord], tiles: Sequence[TileSummary], options: FinetuneOptions
) -> tuple[list[TileRecord], list[str]]:
    """The records with their folds, and notes about them."""
    flattered = "scores are too high if tiles of one slide are in both parts: hold out whole slides by name if you can"
    if options.held_out is not None:
        if not options.held_out:
            return part_records(records, []), ["nothing is held out, so there are no scores"]
        return part_records(records, options.held_out), []
    if len(records) == 1:
        note = "there is only one tile: one end of it, with about the requested share of its nuclei, is held out"
        return cut_record(records[0], options.held_out_share, options.seed), [note]
    held_out = choose_held_out(tiles, options.held_out_share, options.seed)
    trained = {name for tile in tiles if tile.id not in held_out for name in tile.types}
    lost = sorted({name for tile in tiles for name in tile.types} - trained)
    notes = [f"no training tile has {', '.join(lost)}: annotate more, or hold out other tiles"] if lost else []
    return part_records(records, held_out), [*notes, flattered]


def _recipe(options: FinetuneOptions, base: str, folder: Path, state: dict[str, Any]) -> Recipe:
    path = options.recipe or RECIPE
    fold = ",validation=held_out" if options.held_out != () else ""
    given = {
        "base": _recorded(options.checkpoint, base),
        "data": [f"reader=parquet,path={TILES},name={DATASET},train=train{fold}"],
        "data_root": str(folder),
        "output_dir": str(folder),
        "seed": options.seed,
        "steps": state.get("steps_planned") or options.steps,
        "batch_size": options.batch_size,
        "num_workers": options.workers,
    }
    values = read_recipe_file(path) | {name: value for name, value in given.items() if value is not None}
    recipe = make_recipe(**values)
    if recipe.model.train_encoder:
        raise ValueError(f"{path}: train_encoder is for making a small backbone; fine-tuning trains an adapter")
    optimization = recipe.optimization
    warmup = min(optimization.warmup_steps, max(1, optimization.steps // WARMUP_SHARE))
    return replace(recipe, optimization=replace(optimization, warmup_steps=warmup))


def _counts(tiles: Sequence[TileSummary]) -> dict[str, int]:
    """Number of nuclei by type, with `without class` last."""
    total: Counter = Counter()
    for tile in tiles:
        total.update(tile.nuclei)
    without = total.pop(None, 0)
    return {**{name: total[name] for name in sorted(total)}, **({"without class": without} if without else {})}


def _notes(
    tiles: Sequence[TileSummary], names: Sequence[str], model: PreTrainedModel, options: FinetuneOptions
) -> list[str]:
    """Facts about the tiles that the user should know."""
    notes = []
    if options.mpp is None and any(tile.mpp is None for tile in tiles):
        notes.append(f"{model.config.mpp:g} µm per pixel is assumed where a file states no pixel size (see --mpp)")
    if empty := [tile.id for tile in tiles if not tile.count]:
        notes.append(f"{len(empty)} of the tiles have no nuclei and train the background")
    if partly := [tile for tile in tiles if tile.annotated_share < 1]:
        notes.append(f"{len(partly)} of the tiles are partly annotated; their other pixels are ignored")
    if names and any(None in tile.nuclei for tile in tiles):
        notes.append("nuclei without a class train everything except the types; scores of types ignore them")
    if not names and model.config.num_types:
        notes.append(
            "the annotations have no classes: the checkpoint keeps its types untrained, and they may get worse"
        )
    unseen = [name for name in model.config.type_names.values() if names and name not in names]
    if unseen:
        notes.append(f"the checkpoint's types stay; the annotations have none of {', '.join(unseen)}")
    return notes


def _sentences(facts: dict[str, Any], options: FinetuneOptions) -> list[str]:
    nuclei = facts["nuclei"]
    by_type = ", ".join(
        f"{name} {count:,}" for name, count in nuclei.items() if len(nuclei) > 1 or name in facts["types"]
    )
    parts = facts["tiles"]
    held_out = parts.get("held_out", [])
    drawn = "by name" if options.held_out else f"drawn with seed {options.seed}"
    shown = ", ".join(held_out[:8]) + (f" and {len(held_out) - 8} more" if len(held_out) > 8 else "")
    lines = [
        f"{sum(map(len, parts.values())):,} tiles with {sum(nuclei.values()):,} nuclei in {facts['annotations']}"
        + (f" ({by_type})" if by_type else ""),
        f"{len(parts['train']):,} train"
        + (f", {len(held_out):,} held out ({drawn}): {shown}" if held_out else ", none held out"),
    ]
    return lines + [f"note: {note}" for note in facts["notes"]]


def _seconds_per_step(recipe: Recipe, accelerator: Accelerator, model: PreTrainedModel, crops: CropDataset) -> float:
    """Times some steps on a copy of the model; with workers, crops are made at the same time."""
    learner = copy.deepcopy(model).to(accelerator.device).to(memory_format=torch.channels_last).train()
    optimizer = make_optimizer(learner, recipe.optimization)
    size, passes = recipe.optimization.batch_size, recipe.optimization.gradient_accumulation_steps
    making = learning = 0.0
    for step in range(TIMED_STEPS + 1):
        began = time.monotonic()
        batches = [default_collate([crops[i % len(crops)] for i in range(size)]) for _ in range(passes)]
        made = time.monotonic()
        for batch in batches:
            batch = {name: value.to(accelerator.device) for name, value in batch.items()}
            with accelerator.autocast():
                loss, _ = training_loss(learner, batch, recipe.data.crop_size, recipe.optimization)
            loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        if accelerator.device.type == "cuda":
            torch.cuda.synchronize()
        if step:
            making += made - began
            learning += time.monotonic() - made
    workers = recipe.data.num_workers
    return max(learning, making / workers) / TIMED_STEPS if workers else (learning + making) / TIMED_STEPS


def _finish(folder: Path, run: TrainingRun, options: FinetuneOptions, plan: dict[str, Any]) -> Finetuned:
    """Scores both models, and writes the adapter and the results, `finetune.json` last."""
    device, processor = run.accelerator.device, run.processor
    model = CfSamForNucleiSegmentation.from_pretrained(folder / "model")
    with full_disk_explained(folder):
        model.save_adapter(
            folder / ADAPTER, name=folder.resolve().name, processor=processor, base_name=plan["checkpoint"]
        )
    results: dict[str, Any] = {**plan, "decoding": processor.image_processor.decoding_parameters().to_dict()}
    results["parameters"] = dict(zip(("trained", "all"), model.get_nb_trainable_parameters(), strict=True))
    records = run.data.validation.get(DATASET, [])
    scored: dict[str, tuple[System, list[TileScore]]] = {}
    if records:
        models = {"before": _before(options.checkpoint), "after": model}
        for when, of_model in models.items():
            if of_model is not None:
                # The same decoding, tiles and overlap for both.
                pipe = NucleiSegmentationPipeline(
                    model=of_model, image_processor=processor.image_processor, device=device
                )
                system = checkpoint_system(pipe, str(folder), name=when)
                scored[when] = system, evaluate_records(records, system)
    picture = None
    with full_disk_explained(folder):
        about = environment(str(device))
        results["results"] = {}
        for when, (system, scores) in scored.items():
            record = results_record(system, HELD_OUT_PART, about, {DATASET: dataset_record(scores)})
            results["results"][when] = finite(record)
            write_report(folder / when, record, {DATASET: scores})
        if scored:
            picture = before_after_picture(records, {when: pair[0] for when, pair in scored.items()})
        table = _table(results)
        with staged_folder(folder) as stage:
            write_json(stage / RESULTS, results)
            (stage / TEXT).write_text(_text(folder, results, table), encoding="utf-8")
            if picture is not None:
                write_picture(picture, stage / PICTURE)
    return Finetuned(folder, results, table, was_done=False)


HELD_OUT_PART = "held-out"


def _before(checkpoint: str) -> PreTrainedModel | None:
    """The original checkpoint; None for a plain SAM, which cannot find nuclei."""
    base = _base(checkpoint)
    if CfSamConfig.get_config_dict(base)[0].get("model_type") != CfSamConfig.model_type:
        return None
    return CfSamForNucleiSegmentation.from_pretrained(base, dtype=torch.float32)


def _table(results: dict[str, Any]) -> str:
    return comparison(list(results["results"].values())) if results["results"] else ""


def _text(folder: Path, results: dict[str, Any], table: str) -> str:
    """The report: tiles, options, scores, and the files in the folder."""
    held_out = results["tiles"].get("held_out", [])
    lines = [
        f"# {folder.resolve().name}: {results['checkpoint']} fine-tuned",
        "",
        f"{results['steps_planned']:,} steps with a frozen encoder ({results['parameters']['trained']:,} of "
        f"{results['parameters']['all']:,} parameters trained), seed {results['seed']}. Types: "
        f"{', '.join(results['types']) or 'none'}.",
        "",
        f"- trained on {len(results['tiles']['train']):,} tiles: {', '.join(results['tiles']['train'])}",
        f"- held out {len(held_out):,}: {', '.join(held_out) or 'none'}",
        f"- nuclei: {', '.join(f'{name} {count:,}' for name, count in results['nuclei'].items())}",
        *(f"- {note}" for note in results["notes"]),
        "",
    ]
    if table:
        lines += [table, "Before and after use the same tiles, decoding and overlap of windows.", ""]
        lines += [f"![before and after]({PICTURE})", ""]
    lines += [
        f"`{ADAPTER}/` (the trained part: `CfSamForNucleiSegmentation.from_adapter`), `model/` (the whole model: "
        f"`cfsam segment --checkpoint`), `before/` and `after/` (scores with intervals, single tiles), "
        "`report.html` (curves), `recipe.yaml` (every value).",
        "",
        "The scores of nuclei are calibrated for the base. To calibrate them for this model: "
        f"`python examples/tools/calibrate_scores.py --checkpoint {folder}/model --data reader=parquet,path="
        f"{folder / TILES},train=train` (on the training tiles).",
        "",
    ]
    return "\n".join(lines)
