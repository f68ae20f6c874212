"""Robustness of a checkpoint to stain, blur, JPEG, light, noise and magnification, and its scores on other data.

    python examples/studies/robustness.py --checkpoint runs/tiny/model --output_dir results/robustness \
        --data reader=consep,path=CoNSeP,split=examples/splits/consep.json \
        --transfer reader=instance_pairs,path=dsb2018,name=dsb2018 --transfer_groups group

Every condition changes the validation tiles in one fixed way; noise too is the same in every run. 20x and 10x resample
the truth as well, and run with and without the pixel size. `--transfer` names data that the model was not trained for:
the validation tiles if there is a split, else all; the model assumes its own pixel size for tiles without one. The
script writes `robustness.json` and `robustness.md`. Under `accelerate launch` the processes share the tiles.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from transformers import HfArgumentParser

# Importing it registers the U-Net, so that its checkpoints load.
from cfsam_hf.baselines import unet  # noqa: F401
from cfsam_hf.commands.loading import load_pipeline, resolve_checkpoint, resolve_device
from cfsam_hf.commands.messages import errors_in_one_line
from cfsam_hf.data import TileRecord
from cfsam_hf.data.data_items import DataItem, records_by_dataset
from cfsam_hf.drawing.tile_sheet import choose_tiles
from cfsam_hf.evaluation import (
    Processes,
    System,
    TileScore,
    checkpoint_system,
    evaluate_records,
    results_record,
    summarize_tiles,
)
from cfsam_hf.evaluation.environment import environment
from cfsam_hf.evaluation.shifts import PLAIN, choose_conditions
from cfsam_hf.evaluation.tables import DETECTION, MISSING, SEGMENTATION, TYPE_F1, markdown_table
from cfsam_hf.files.atomic import staged_folder
from cfsam_hf.files.json_files import write_json
from cfsam_hf.files.writable import check_writable

FORMAT = "cfsam_hf robustness 1"
PQ, FD = SEGMENTATION["PQ"], DETECTION["Fd"]
KEPT = ("images", "true_nuclei", "pred_nuclei", *SEGMENTATION.values(), *DETECTION.values())

CAPTION = (
    "PQ: mean over images. Fd: pairs of centroids within 3 um (12 px at 40x), counts pooled over images. Less plain: "
    "the difference to the PQ of the plain tiles. Stain factors apply to optical densities; sigmas of blur are in "
    "pixels of the tile. 20x and 10x are scored in their own pixels."
)
TRANSFER_CAPTION = "Data that the model was not trained for; for an unknown mpp the model assumes its own."


@dataclass
class RobustnessOptions:
    data: list[str] = field(metadata={"help": "one or several of reader=NAME,path=FOLDER,split=FILE"})
    output_dir: str = field(metadata={"help": "folder of robustness.json and robustness.md"})
    checkpoint: str | None = field(
        default=None, metadata={"help": "bundled checkpoint, folder or Hub id (default: cfsam-tiny)"}
    )
    conditions: list[str] = field(
        default_factory=list, metadata={"help": "kinds (stain, blur, jpeg, light, noise, magnification) or names"}
    )
    transfer: list[str] = field(default_factory=list, metadata={"help": "further data items, scored unchanged"})
    transfer_groups: str | None = field(
        default=None,
        metadata={"help": "column of their index.csv; its groups are scored separately too"},
    )
    tiles: int | None = field(default=None, metadata={"help": "tiles per data set, over all tissues; default: all"})
    seed: int = field(default=0, metadata={"help": "seed of the noise"})
    device: str | None = field(default=None, metadata={"help": "such as cuda or cpu"})


def condition_results(
    records: Sequence[TileRecord], system: System, wanted: Sequence[str], seed: int, processes: Processes
) -> dict[str, dict[str, Any]]:
    """Scores of one data set under each condition, and their differences in PQ and Fd to the plain tiles."""
    found: dict[str, dict[str, Any]] = {}
    for condition in choose_conditions(wanted, seed):
        scores = kept_scores(evaluate_records(condition.records(records), condition.system(system), processes))
        plain = found[PLAIN]["scores"] if found else scores
        found[condition.name] = {
            "kind": condition.kind,
            "mpp_given": condition.mpp_given,
            "scores": scores,
            "less_plain": {key: scores[key] - plain[key] for key in (PQ, FD)},
        }
        if processes.is_main:
            print(f"  {condition.name}: PQ {scores[PQ]:.4f}, Fd {scores[FD]:.4f}", flush=True)
    return found


def kept_scores(tiles: Sequence[TileScore]) -> dict[str, float]:
    """The scores that papers print."""
    scores = summarize_tiles(tiles)
    return {key: value for key, value in scores.items() if key in KEPT or key.startswith(TYPE_F1)}


def transfer_results(
    name: str, records: Sequence[TileRecord], system: System, column: str | None, processes: Processes
) -> dict[str, dict[str, Any]]:
    """Scores of an unchanged data set, for all tiles and for those of each group.

    Raises:
        ValueError: a tile has no value in the column that groups them.
    """
    groups: dict[str, list[int]] = {name: list(range(len(records)))}
    for place, record in enumerate(records) if column else ():
        if not record.metadata.get(column):
            raise ValueError(f"{name}: tile {record.id} has no {column!r} in its index; omit transfer_groups")
        groups.setdefault(f"{name}, {record.metadata[column]}", []).append(place)
    tiles = evaluate_records(records, system, processes)
    return {
        group: {
            "mpp": sorted({records[i].mpp for i in places if records[i].mpp is not None}) or None,
            "tiles": [tiles[i].id for i in places],
            "scores": kept_scores([tiles[i] for i in places]),
        }
        for group, places in groups.items()
    }


def report(record: dict[str, Any]) -> str:
    """The tables as Markdown."""
    results, transfer = record["results"], record["transfer"]
    lines = [f"# {record['system']['name']}: robustness ({record['part']} tiles)", ""]
    head = ["condition"]
    for name in results:
        head += [f"{name} PQ", "less plain", "Fd"]
    rows = []
    for condition in next(iter(results.values()))["conditions"]:
        row = [condition]
        for result in results.values():
            one = result["conditions"][condition]
            less = "" if condition == PLAIN else _number(one["less_plain"][PQ], "+.3f")
            row += [_number(one["scores"][PQ]), less, _number(one["scores"][FD])]
        rows.append(row)
    lines += markdown_table(head, rows)
    counts = [f"{name} {len(result['tiles'])}" for name, result in results.items()]
    lines += ["", f"{CAPTION} Tiles: {', '.join(counts)}.", ""]
    if transfer:
        columns = {label: SEGMENTATION[label] for label in ("Dice", "AJI", "DQ", "SQ", "PQ")} | DETECTION
        rows = [
            [
                name,
                ", ".join(f"{mpp:g}" for mpp in result["mpp"] or ()) or "not known",
                f"{result['scores']['images']:,}",
                f"{result['scores']['true_nuclei']:,}",
                *(_number(result["scores"][key]) for key in columns.values()),
            ]
            for name, result in transfer.items()
        ]
        lines += [*markdown_table(["transfer", "um per pixel", "images", "nuclei", *columns], rows), ""]
        lines += [TRANSFER_CAPTION, ""]
    return "\n".join(lines)


def _number(value: float, form: str = ".3f") -> str:
    return MISSING if math.isnan(value) else format(value, form)


def main() -> None:
    options = HfArgumentParser(RobustnessOptions).parse_args_into_dataclasses()[0]
    folder, processes = Path(options.output_dir), Processes(options.device)
    try:
        if processes.is_main:
            check_writable(folder, "choose another folder with --output_dir")
        # Unknown names must be reported now, not after the first data set.
        choose_conditions(options.conditions)
        items = [DataItem.parse(text) for text in options.data]
        transfer_items = [DataItem.parse(text) for text in options.transfer]
        groups = records_by_dataset(items, "validation")
        if not groups:
            raise ValueError(f"there are no validation tiles in {', '.join(options.data)}; name them with split=FILE")
        elsewhere: dict[str, list[TileRecord]] = {}
        for item in transfer_items:
            elsewhere.setdefault(item.dataset, []).extend(item.records("validation" if item.split else "all"))
        pipe = load_pipeline(options.checkpoint, processes.device)
        system = checkpoint_system(pipe, resolve_checkpoint(options.checkpoint))
        results, transfer = {}, {}
        for name, records in groups.items():
            records = choose_tiles(records, options.tiles or len(records))
            if processes.is_main:
                print(f"{name}, {len(records)} tiles", flush=True)
            results[name] = {
                "split": ", ".join(sorted({i.split for i in items if i.dataset == name and i.split})) or None,
                "tiles": [record.id for record in records],
                "conditions": condition_results(records, system, options.conditions, options.seed, processes),
            }
        for name, records in elsewhere.items():
            records = choose_tiles(records, options.tiles or len(records))
            transfer |= transfer_results(name, records, system, options.transfer_groups, processes)
        where = environment(resolve_device(processes.device), processes.count)
        record = results_record(system, "validation", where, results)
        record |= {"format": FORMAT, "noise_seed": options.seed, "transfer": transfer}
        if processes.is_main:
            with staged_folder(folder) as stage:
                write_json(stage / "robustness.json", record)
                (stage / "robustness.md").write_text(report(record), encoding="utf-8")
            print(report(record))
    finally:
        processes.close()


if __name__ == "__main__":
    with errors_in_one_line():
        main()
