"""Ablation study: train variants of CF-SAM under one budget with several seeds, score them, and print a table.

What each part contributes, trained from random weights (any recipe and any of its values may be given):

    python examples/studies/ablate.py examples/recipes/cfsam_tiny.yaml --data_root DATA --output_dir runs/ablation \
        --variants full,no_mala,no_hmfm,no_bgmr --seeds 0,1,2 --steps 1500 --warmup_steps 100

Adapting a frozen backbone: trained on one data set without adapters, then adapted to another with equal steps.

    python examples/train.py --base tiny --train_encoder true --model_options '{"use_mala": false}' \
        --output_dir runs/backbone --steps 2400 \
        --data reader=monuseg,path=MoNuSeg,split=examples/splits/monuseg.json
    python examples/studies/ablate.py --base runs/backbone/model --start whole --output_dir runs/adapting \
        --variants full,no_mala,lora,head_only,full_fine_tuning --seeds 0,1,2 --steps 600 --warmup_steps 50 \
        --data reader=consep,path=CoNSeP,split=examples/splits/consep.json

Every run is a separate process, so that its peak memory can be measured. Runs with the same seed see the same crops
and share the initial values of common parts. Scores are those of the averaged weights of the last step on the
validation tiles; no step is selected by its score. Repeating the command skips finished runs and resumes the
interrupted one; it may name more variants or seeds. `ablation.md` and `ablation.json` are rewritten after every run.

Start: "backbone" takes only SAM's weights from the base; "whole" takes all weights that fit, and parts that a variant
adds get new weights. The log lists these parts, and so does `ablation.json`.
"""

import argparse
import contextlib
import itertools
import json
import logging
import math
import multiprocessing
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from accelerate.utils import set_seed

from cfsam_hf.commands.messages import errors_in_one_line
from cfsam_hf.evaluation import checkpoint_system, evaluate_records, summarize_tiles
from cfsam_hf.evaluation.environment import environment
from cfsam_hf.evaluation.tables import (
    COMPARISON,
    DETECTION,
    MISSING,
    SEGMENTATION,
    TYPE_F1,
    markdown_table,
    with_deviation,
)
from cfsam_hf.files.atomic import atomic_path, remove_folder
from cfsam_hf.files.json_files import write_json
from cfsam_hf.model.pipeline_cfsam import NucleiSegmentationPipeline
from cfsam_hf.training import (
    Recipe,
    TrainingRun,
    TrainingStopped,
    build_crops,
    build_processor,
    load_training_data,
    make_accelerator,
    parse_recipe,
)
from cfsam_hf.training.checkpoints import checkpoint_steps
from cfsam_hf.training.interruption import SIGNALS
from cfsam_hf.training.memory import PeakMemory
from cfsam_hf.training.recipe import differences
from cfsam_hf.training.variants import READINGS, VARIANTS, Variant, build_variant, reading, variant_recipe

FORMAT = "cfsam_hf ablation 1"
RESULT, COSTS, START = "result.json", "costs.json", "start.json"
INTERRUPTED = tuple(128 + number for number in SIGNALS)
PQ = SEGMENTATION["PQ"]
CAPTION = (
    "Dice, AJI, DQ, SQ, PQ and mPQ: means over images. Fd (pairs of centroids within 3 um) and F1 of types: counts "
    "pooled over images. After ±: standard deviation over the seeds (n - 1). PQ - CF-SAM's: mean over the seeds of "
    "the difference at the same seed. Trained: parameters. Memory: peak while training, without validation "
    "({memory}). tiles/s: crops trained on per second of the steps' wall time."
)


def parse_arguments(arguments: Sequence[str]) -> tuple[argparse.Namespace, Recipe]:
    """Returns the options of this script, and the recipe that all variants share."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        usage="ablate.py [RECIPE.yaml] --output_dir DIR [--variants A,B] [--seeds 0,1] [--start backbone|whole] "
        "[--keep_weights] [any value of a recipe, see train.py --help]",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument(
        "--variants",
        type=named_variants,
        default=list(VARIANTS.values()),
        metavar="A,B",
        help=f"default: all of {', '.join(VARIANTS)}",
    )
    parser.add_argument(
        "--seeds", type=lambda text: [int(seed) for seed in text.split(",")], default=[0, 1, 2], metavar="0,1,2"
    )
    parser.add_argument(
        "--start", choices=("backbone", "whole"), default="backbone", help="weights taken from the base"
    )
    parser.add_argument("--keep_weights", action="store_true", help="keep the last checkpoint of finished runs")
    options, rest = parser.parse_known_args(arguments)
    for name, values in (("variants", [v.name for v in options.variants]), ("seeds", options.seeds)):
        if len(set(values)) < len(values):
            parser.error(f"--{name} contains duplicates: {values}")
    return options, parse_recipe(rest)


def named_variants(text: str) -> list[Variant]:
    """Variants by name, separated by commas."""
    names = text.split(",")
    if unknown := [name for name in names if name not in VARIANTS]:
        raise argparse.ArgumentTypeError(f"no variant {', '.join(unknown)}; choose from {', '.join(VARIANTS)}")
    return [VARIANTS[name] for name in names]


def run_folder(recipe: Recipe, variant: Variant, seed: int) -> Path:
    return Path(recipe.run.output_dir) / variant.name / f"seed{seed}"


def run_recipe(recipe: Recipe, variant: Variant, seed: int) -> Recipe:
    """The recipe of one run."""
    recipe = replace(recipe, optimization=replace(recipe.optimization, seed=seed))
    # Runs do not validate, and only their last state is scored.
    folder = str(run_folder(recipe, variant, seed))
    return variant_recipe(recipe, variant, output_dir=folder, evaluate_every=0, keep_checkpoints=1)


def check_start(folder: Path, start: str) -> None:
    """Records the start of a run, which is not part of its recipe.

    Raises:
        ValueError: the run began with another start.
    """
    file = folder / START
    if file.exists() and (found := json.loads(file.read_text(encoding="utf-8"))["start"]) != start:
        raise ValueError(f"{folder} was started with --start {found}, not {start}; give another --output_dir.")
    folder.mkdir(parents=True, exist_ok=True)
    write_json(file, {"start": start})


def train_and_score(common: Recipe, variant: Variant, seed: int, start: str, keep_weights: bool) -> None:
    """Trains one run, new or resumed, and writes `result.json` into its folder.

    Args:
        common: the recipe of all variants.
        variant: the change to it.
        seed: of new weights and crops.
        start: "backbone" or "whole".
        keep_weights: whether to keep the last checkpoint.

    Raises:
        TrainingStopped: a signal arrived, a loss is not finite, or the disk is full.
        ValueError: there are no validation tiles, or the folder holds a run of another recipe or start.
    """
    recipe = run_recipe(common, variant, seed)
    folder = Path(recipe.run.output_dir)
    check_start(folder, start)
    accelerator = make_accelerator(recipe)
    set_seed(seed)
    data = load_training_data(recipe)
    if not data.validation:
        raise ValueError("There are no validation tiles to compare variants on; name some with split=FILE.")
    memory = PeakMemory(accelerator.device)
    model, origin = build_variant(common, list(data.type_names.values()), variant, start)
    processor = build_processor(recipe, model.config)
    crops = build_crops(recipe, data, model.config, processor.image_processor, accelerator)
    # Measured before validation, which may take more memory than training.
    run = TrainingRun(recipe, accelerator, replace(data, validation={}), model, processor, crops)
    first = run.step
    memory.reset()
    run.train()
    if run.step > first:
        # For a resumed run these are the costs of its remaining steps.
        costs = {
            "peak_memory_mb": round(memory.megabytes(), 1),
            "tiles_per_second": round(run.monitor.tiles_per_second, 2),
            "steps_timed": run.step - first,
        }
        write_json(folder / COSTS, costs)
    trainable, total = run.plain.get_nb_trainable_parameters()
    result = {
        "format": FORMAT,
        "variant": variant.name,
        "title": variant.title,
        "seed": seed,
        "start": start,
        "recipe": recipe.to_dict(),
        "crops_per_step": run.crops_per_step,
        "origin": asdict(origin),
        "trainable": trainable,
        "parameters": total,
        **json.loads((folder / COSTS).read_text(encoding="utf-8")),
        "memory_is": "tensors on the GPU"
        if accelerator.device.type == "cuda"
        else "resident, over libraries and tiles",
        "decoding": processor.image_processor.decoding_parameters().to_dict(),
        "environment": environment(str(accelerator.device)),
        "results": {},
    }
    with run.averaged_model() as averaged:
        for name in variant.readings:
            with reading(averaged, name):
                result["results"][name] = score(run, data.validation)
    write_json(folder / RESULT, result)
    accelerator.end_training()
    for step in [] if keep_weights else checkpoint_steps(folder):
        remove_folder(folder / f"checkpoint-{step}")


def score(run: TrainingRun, validation: dict[str, list]) -> dict[str, dict[str, Any]]:
    """Scores of a model by data set."""
    pipe = NucleiSegmentationPipeline(
        model=run.plain, image_processor=run.processor.image_processor, device=run.accelerator.device
    )
    system = checkpoint_system(pipe, str(run.folder))
    found = {}
    for name, records in validation.items():
        tiles = evaluate_records(records, system)
        found[name] = {"tiles": [tile.id for tile in tiles], "scores": summarize_tiles(tiles)}
    return found


def finished(recipe: Recipe, variant: Variant, seed: int, start: str) -> dict[str, Any] | None:
    """The result of a finished run; `None` if it has not finished.

    Raises:
        ValueError: the folder holds a run of another recipe or start.
    """
    folder = run_folder(recipe, variant, seed)
    if not (folder / RESULT).exists():
        return None
    result = json.loads((folder / RESULT).read_text(encoding="utf-8"))
    changed = differences(result["recipe"], run_recipe(recipe, variant, seed).to_dict())
    if result["start"] != start:
        changed.append(f"start {result['start']!r} -> {start!r}")
    if changed:
        raise ValueError(
            f"{folder} holds a finished run of another recipe: {'; '.join(changed)}. Give another --output_dir."
        )
    return result


def summary(results: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The entry of one variant in `ablation.json`: means and deviations over its seeds, and every run.

    Args:
        results: results of its runs, one per seed.
    """
    scores: dict[str, dict[str, dict]] = {}
    for name in results[0]["results"]:
        for dataset in results[0]["results"][name]:
            of_runs = [result["results"][name][dataset]["scores"] for result in results]
            scores.setdefault(name, {})[dataset] = {
                key: spread([run.get(key) for run in of_runs]) for key in of_runs[0]
            }
    first = results[0]
    return {
        "title": first["title"],
        "trainable": first["trainable"],
        "parameters": first["parameters"],
        "origin": first["origin"],
        "seeds": [result["seed"] for result in results],
        **{name: spread([result[name] for result in results]) for name in ("peak_memory_mb", "tiles_per_second")},
        "scores": scores,
        "runs": list(results),
    }


def spread(values: Sequence[float | None]) -> dict[str, float | None]:
    """Mean and deviation (n - 1) of a score; no values if a seed lacks it, and no deviation for a single seed.

    >>> spread([1.0, 3.0])
    {'mean': 2.0, 'deviation': 1.4142135623730951}
    """
    if None in values:
        return {"mean": None, "deviation": None}
    return {
        "mean": statistics.fmean(values),
        "deviation": statistics.stdev(values) if len(values) > 1 else None,
    }


def table(variants: dict[str, dict[str, Any]], dataset: str) -> list[str]:
    """The table of one data set.

    Args:
        variants: [`summary`] by name.
        dataset: the data set.
    """
    rows_of = [
        (of, name, reading_scores[dataset])
        for of in variants.values()
        for name, reading_scores in of["scores"].items()
    ]
    known = {key for _, _, scores in rows_of for key, value in scores.items() if value["mean"] is not None}
    types = sorted(key.removeprefix(TYPE_F1) for key in known if key.startswith(TYPE_F1))
    columns = {label: SEGMENTATION[label] for label in COMPARISON} | {"Fd": DETECTION["Fd"]}
    columns |= {f"F1 {name}": TYPE_F1 + name for name in types}
    columns = {label: key for label, key in columns.items() if key in known}
    rows = []
    for of, name, scores in rows_of:
        title = f"{of['title']}, {READINGS[name]}" if READINGS[name] else of["title"]
        cells = [with_deviation(scores[key]["mean"], scores[key]["deviation"]) for key in columns.values()]
        costs = ["", "", ""]
        if name == "refined":
            memory, speed = of["peak_memory_mb"]["mean"], of["tiles_per_second"]["mean"]
            costs = [f"{of['trainable'] / 1e6:.2f} M", f"{memory:,.0f} MB", f"{speed:.1f}"]
        rows.append(
            [title, str(len(of["seeds"])), *cells, difference(variants.get("full"), of, name, dataset), *costs]
        )
    head = [dataset, "seeds", *columns, "PQ - CF-SAM's", "trained", "memory", "tiles/s"]
    return markdown_table(head, rows)


def difference(full: dict[str, Any] | None, of: dict[str, Any], name: str, dataset: str) -> str:
    """Difference in PQ to CF-SAM with the same seed, with deviation; other readings of CF-SAM to its refined one."""
    if full is None or (of is full and name == "refined"):
        return ""
    reference = {run["seed"]: run["results"]["refined"][dataset]["scores"].get(PQ) for run in full["runs"]}
    pairs = [(run["results"][name][dataset]["scores"].get(PQ), reference.get(run["seed"])) for run in of["runs"]]
    gaps = [mine - its for mine, its in pairs if mine is not None and its is not None]
    if not gaps:
        return MISSING
    found = spread(gaps)
    text = with_deviation(found["mean"], found["deviation"])
    return text if math.copysign(1, found["mean"]) < 0 else f"+{text}"


def write_tables(recipe: Recipe, start: str, results: dict[str, list[dict[str, Any]]]) -> str:
    """Writes `ablation.json` and `ablation.md` for the runs so far, and returns the latter."""
    folder = Path(recipe.run.output_dir)
    variants = {name: summary(of_variant) for name, of_variant in results.items() if of_variant}
    some = next(iter(variants.values()))["runs"][0]
    budget = {
        "steps": recipe.optimization.steps,
        "crops_per_step": some["crops_per_step"],
        "crop_size": recipe.data.crop_size,
        "base": recipe.model.base,
        "start": start,
    }
    environment_of = some["environment"]
    begin = budget["base"] if start == "whole" else f"the SAM of {budget['base']}"
    begin = "random weights" if budget["base"] == "tiny" else begin
    write_json(
        folder / "ablation.json",
        {"format": FORMAT, "budget": budget, "environment": environment_of, "variants": variants},
    )
    lines = [
        f"{budget['steps']:,} steps of {budget['crops_per_step']} crops of {budget['crop_size']} pixels from {begin}; "
        f"{environment_of['hardware']}.",
        "",
    ]
    for dataset in some["results"]["refined"]:
        lines += [*table(variants, dataset), ""]
    text = "\n".join([*lines, CAPTION.format(memory=some["memory_is"]), ""])
    with atomic_path(folder / "ablation.md") as working:
        working.write_text(text, encoding="utf-8")
    return text


def run_in_child(common: Recipe, variant: Variant, seed: int, start: str, keep_weights: bool) -> int:
    """[`train_and_score`] in a separate process; returns its exit status."""
    # A new interpreter: a fork would inherit memory and threads, which are measured.
    work = multiprocessing.get_context("spawn").Process(
        target=one_run, args=(common, variant, seed, start, keep_weights)
    )
    work.start()
    while work.is_alive():
        # A signal goes to both processes; the other one writes its checkpoint first.
        with contextlib.suppress(KeyboardInterrupt):
            work.join()
    # A process that a signal ended has its negative number.
    return work.exitcode if work.exitcode >= 0 else 128 - work.exitcode


def one_run(common: Recipe, variant: Variant, seed: int, start: str, keep_weights: bool) -> None:
    """What the process of one run does, up to its exit status."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    with errors_in_one_line():
        try:
            train_and_score(common, variant, seed, start, keep_weights)
        except TrainingStopped as stop:
            print(stop, file=sys.stderr)
            sys.exit(stop.exit_status)


def main() -> None:
    options, recipe = parse_arguments(sys.argv[1:])
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    # Seed by seed, so that an unfinished table still compares the variants.
    order = list(itertools.product(options.seeds, options.variants))
    results = {(seed, v.name): finished(recipe, v, seed, options.start) for seed, v in order}
    failed, text = [], ""
    for seed, variant in order:
        if results[seed, variant.name] is None:
            began = time.monotonic()
            if status := run_in_child(recipe, variant, seed, options.start, options.keep_weights):
                if status in INTERRUPTED:
                    # The run has written a checkpoint and reported it.
                    sys.exit(status)
                failed.append(f"{variant.name} with seed {seed}")
                if not any(results.values()):
                    # If the first run fails, all would; after that, the others are still worth training.
                    break
                continue
            results[seed, variant.name] = finished(recipe, variant, seed, options.start)
            logging.info("%s with seed %d: %.1f minutes", variant.name, seed, (time.monotonic() - began) / 60)
        of_variants = {v.name: [r for s in options.seeds if (r := results[s, v.name])] for v in options.variants}
        text = write_tables(recipe, options.start, of_variants)
    print(text)
    if failed:
        raise SystemExit(
            f"Not finished: {', '.join(failed)}. The messages above give the reasons; the same command resumes."
        )


if __name__ == "__main__":
    with errors_in_one_line():
        main()
