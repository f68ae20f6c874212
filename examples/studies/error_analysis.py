"""Error analysis: classifies every nucleus of the validation tiles, computes what each class costs, draws pictures.

    python examples/studies/error_analysis.py --checkpoint runs/tiny/model --output_dir results/errors \
        --data reader=consep,path=CoNSeP,split=examples/splits/consep.json

Writes `errors.json`, `errors.md` (counts by data set and tissue, what each class of error costs in PQ, confusion of
types), `<data set>_errors.png`, a sheet of examples, and `<data set>_map.png`, which shows the class of every
prediction without the tissue. `--predictions FOLDER` analyses label maps instead of a checkpoint, as `cfsam evaluate`
does.
"""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image
from transformers import HfArgumentParser

# Importing it registers the U-Net, so that its checkpoints load.
from cfsam_hf.baselines import unet  # noqa: F401
from cfsam_hf.commands.loading import load_pipeline, resolve_checkpoint, resolve_device
from cfsam_hf.commands.messages import errors_in_one_line
from cfsam_hf.data import TileRecord
from cfsam_hf.data.data_items import DataItem, records_by_dataset
from cfsam_hf.drawing.tile_sheet import choose_tiles
from cfsam_hf.evaluation import LabelMapFolder, System, checkpoint_system, folder_system, results_record
from cfsam_hf.evaluation.environment import environment
from cfsam_hf.evaluation.error_pictures import error_examples, error_map, error_panel, error_sheet, evenly
from cfsam_hf.evaluation.errors import (
    DEFINITIONS,
    LOOSE,
    MATCHED,
    MERGED,
    MISSED,
    MISTYPED,
    REPAIRS,
    SPLIT,
    SPURIOUS,
    ErrorCounts,
    classify_nuclei,
    mean_iou,
    repaired_quality,
)
from cfsam_hf.evaluation.tables import MISSING, markdown_table
from cfsam_hf.files.atomic import staged_folder
from cfsam_hf.files.json_files import write_json
from cfsam_hf.files.writable import check_writable

FORMAT = "cfsam_hf errors 1"
SHOWN_TILES = 12  # tiles of a data set that the pictures show
COLUMNS = 5


@dataclass
class ErrorOptions:
    data: list[str] = field(metadata={"help": "one or several of reader=NAME,path=FOLDER,split=FILE"})
    output_dir: str = field(metadata={"help": "folder of errors.json, errors.md and the pictures"})
    checkpoint: str | None = field(
        default=None, metadata={"help": "bundled checkpoint, folder or Hub id (default: cfsam-tiny)"}
    )
    predictions: str | None = field(default=None, metadata={"help": "folder of label maps, instead of a checkpoint"})
    part: str = field(default="validation", metadata={"help": "train, tuning, validation, test or all"})
    tiles: int | None = field(default=None, metadata={"help": "tiles per data set, over all tissues; default: all"})
    device: str | None = field(default=None, metadata={"help": "such as cuda or cpu"})


def analyse(
    records: Sequence[TileRecord], system: System
) -> tuple[list[tuple[str | None, ErrorCounts]], dict[str, list], list[Image.Image]]:
    """Returns tissue and counts of each tile, and examples of each class and a map of the tiles that are shown."""
    shown = {record.id for record in choose_tiles(records, SHOWN_TILES)}
    tiles, examples, panels = [], {}, []
    for record in records:
        tile = record.load()
        prediction = system.predict(tile)
        errors = classify_nuclei(tile, prediction)
        tiles.append((tile.tissue, errors.counts()))
        if record.id in shown:
            panels.append(error_panel(tile, prediction, errors))
            for name, found in error_examples(tile, prediction, errors, COLUMNS).items():
                examples.setdefault(name, []).append(found)
        print(f"  {record.id}: {dict(tiles[-1][1].true)}", flush=True)
    return tiles, {name: spread(found) for name, found in examples.items()}, panels


def spread(by_tile: Sequence[Sequence]) -> list:
    """Examples for one row, from as many tiles as possible: the middle one of each tile before a second of any."""
    queues = evenly([found for found in by_tile if found], COLUMNS)
    turns = [found[(len(found) // 2 + t) % len(found)] for t in range(COLUMNS) for found in queues if t < len(found)]
    return turns[:COLUMNS]


def summary(tiles: Sequence[ErrorCounts], iou: float) -> dict[str, Any]:
    """Counts of some tiles, and their PQ with each class of errors repaired."""
    total = sum(tiles, ErrorCounts())
    return {
        "images": len(tiles),
        "true_nuclei": {name: total.true[name] for name in (MATCHED, LOOSE, SPLIT, MERGED, MISSED)},
        "predictions": {name: total.pred[name] for name in (MATCHED, LOOSE, SPLIT, MERGED, SPURIOUS)},
        "split_nuclei": total.split_nuclei,
        "merging_predictions": total.merging_predictions,
        "mistyped": total.mistyped if total.confusion else None,
        "pq_mean_over_images_repaired": repaired_quality(tiles, iou),
    }


def dataset_errors(tiles: Sequence[tuple[str | None, ErrorCounts]]) -> dict[str, Any]:
    """The record of a data set: all tiles, and those of each tissue where the tissues are known."""
    counts = [one for _, one in tiles]
    iou = mean_iou(counts)
    tissues = sorted({tissue for tissue, _ in tiles if tissue is not None})
    confusion = sum((one.confusion for one in counts), Counter())
    nested: dict[str, dict[str, int]] = {}
    for (true, pred), count in sorted(confusion.items()):
        nested.setdefault(true, {})[pred] = count
    return {
        **summary(counts, iou),
        "mean_iou_of_matches": iou,
        "confusion": nested,
        "tissues": {name: summary([one for tissue, one in tiles if tissue == name], iou) for name in tissues},
    }


def report(record: Mapping[str, Any]) -> str:
    """The tables as Markdown."""
    results = record["results"]
    parts = [
        (f"{name}, {tissue}" if tissue else name, part)
        for name, result in results.items()
        for tissue, part in [(None, result), *(result["tissues"].items() if len(result["tissues"]) > 1 else ())]
    ]
    lines = [f"# {record['system']['name']}: errors ({record['part']} tiles)", ""]
    rows = []
    for name, part in parts:
        true, pred = part["true_nuclei"], part["predictions"]
        total, found = sum(true.values()), sum(pred.values())
        mistyped = MISSING if part["mistyped"] is None else _share(part["mistyped"], true[MATCHED])
        cells = [_share(true[one], total) for one in (MATCHED, LOOSE, SPLIT, MERGED, MISSED)]
        unmatched = f"{pred[SPLIT]:,} / {pred[MERGED]:,}"
        counts = [f"{part['images']:,}", f"{total:,}", *cells, f"{found:,}"]
        rows.append([name, *counts, unmatched, _share(pred[SPURIOUS], found), mistyped])
    head = ["", "images", "true nuclei", MATCHED, LOOSE, SPLIT, MERGED, MISSED, "predictions", "fragments / mergers"]
    lines += [*markdown_table([*head, SPURIOUS, MISTYPED], rows), ""]
    lines += [
        "Shares are of the true nuclei, of the predictions (spurious), and of the matched (mistyped). Fragments / "
        "mergers: unmatched predictions of class split or merged.",
        "",
        *(f"- **{name}**: {text}." for name, text in DEFINITIONS.items()),
        "",
    ]
    rows = []
    for name, part in parts:
        quality = part["pq_mean_over_images_repaired"]
        gains = [_gain(quality[repair], quality["none"]) for repair in REPAIRS]
        rows.append([name, _number(quality["none"]), *gains])
    lines += [*markdown_table(["PQ, gain if repaired", "PQ", *REPAIRS], rows), ""]
    ious = ", ".join(f"{name} {_number(result['mean_iou_of_matches'])}" for name, result in results.items())
    lines += [
        "PQ: mean over images. Gain: the rise of PQ if that class of errors alone were repaired; gains do not add up. "
        f"A new match has the mean IoU of the data set's matches ({ious}). PQ ignores types, so the mistyped cost "
        "nothing here.",
        "",
        *(f"- **{name}**: {text}." for name, text in REPAIRS.items()),
        "",
    ]
    for name, result in results.items():
        if confusion := result["confusion"]:
            names = list(dict.fromkeys([*confusion, *(pred for row in confusion.values() for pred in row)]))
            rows = [[f"**{true}**", *(f"{confusion[true].get(pred, 0):,}" for pred in names)] for true in confusion]
            lines += [*markdown_table([f"{name}: true type, found as", *names], rows), ""]
    return "\n".join(lines)


def sheet_counts(result: Mapping[str, Any]) -> dict[str, str]:
    """The text after the name of each class on a sheet."""
    true, pred = result["true_nuclei"], result["predictions"]
    total, found = sum(true.values()), sum(pred.values())
    counts = {name: f"{_share(true[name], total)} of {total:,}" for name in (MATCHED, LOOSE, SPLIT, MERGED, MISSED)}
    counts[SPURIOUS] = f"{_share(pred[SPURIOUS], found)} of {found:,}"
    if result["mistyped"] is not None:
        counts[MISTYPED] = f"{_share(result['mistyped'], true[MATCHED])} of {true[MATCHED]:,}"
    return counts


def _share(count: int, total: int) -> str:
    return f"{count:,} ({count / total:.0%})" if total else f"{count:,}"


def _number(value: float) -> str:
    return MISSING if math.isnan(value) else f"{value:.3f}"


def _gain(repaired: float, plain: float) -> str:
    return MISSING if math.isnan(repaired) or math.isnan(plain) else f"{repaired - plain:+.3f}"


def main() -> None:
    options = HfArgumentParser(ErrorOptions).parse_args_into_dataclasses()[0]
    folder = Path(options.output_dir)
    check_writable(folder, "choose another folder with --output_dir")
    items = [DataItem.parse(text) for text in options.data]
    groups = records_by_dataset(items, options.part)
    if not groups:
        raise ValueError(f"there are no {options.part} tiles in {', '.join(options.data)}; name them with split=FILE")
    if options.predictions:
        system = folder_system(LabelMapFolder(options.predictions))
    else:
        system = checkpoint_system(
            load_pipeline(options.checkpoint, options.device), resolve_checkpoint(options.checkpoint)
        )
    results, pages = {}, {}
    for name, records in groups.items():
        records = choose_tiles(records, options.tiles or len(records))
        print(f"{name}, {len(records)} tiles", flush=True)
        tiles, examples, panels = analyse(records, system)
        split = ", ".join(sorted({item.split for item in items if item.dataset == name and item.split})) or None
        results[name] = {"split": split, "tiles": [record.id for record in records], **dataset_errors(tiles)}
        title = f"{system.name} on {name}: errors ({len(records)} tiles)"
        pages[f"{name}_errors"] = error_sheet(title, examples, sheet_counts(results[name]), COLUMNS)
        pages[f"{name}_map"] = error_map(title, panels)
    device = "cpu" if options.predictions else resolve_device(options.device)
    record = results_record(system, options.part, environment(device), results)
    record |= {"format": FORMAT, "definitions": DEFINITIONS, "repairs": REPAIRS}
    with staged_folder(folder) as stage:
        write_json(stage / "errors.json", record)
        (stage / "errors.md").write_text(report(record), encoding="utf-8")
        for name, page in pages.items():
            (stage / f"{name.replace('/', '_')}.png").write_bytes(page)
    print(report(record))


if __name__ == "__main__":
    with errors_in_one_line():
        main()
