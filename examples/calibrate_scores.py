"""Calibrate a checkpoint's scores on training tiles, and write the calibration into its processor.

    python examples/calibrate_scores.py --checkpoint runs/tiny/model --tiles 12 \
        --data reader=consep,path=CoNSeP,split=examples/splits/consep.json

A score is to be the probability that the nucleus overlaps a true one with IoU > .5. The network runs once per tile;
slope and intercept of a logistic regression on the logit of each nucleus' mean probability are fitted over the nuclei
of all tiles. What is printed for "after" is judged on tiles that were left out of the fit, one by one. Choose the
decoding parameters before (tune_decoding.py): other nuclei need another calibration. Validation tiles are not looked
at; since the network knows its training tiles, scores of new images may still be somewhat too high.
"""

import warnings
from dataclasses import dataclass, field

from transformers import HfArgumentParser, pipeline

# Imported to make the checkpoints of the U-Net known.
from cfsam_hf.baselines import unet  # noqa: F401
from cfsam_hf.evaluation.score_calibration import ScoredTile, describe_scores, fit_tiles, leave_tiles_out, scored_tile
from cfsam_hf.evaluation.tuning import training_tiles, write_processor_options

COLUMNS = {
    "ECE": "ece",
    "log loss": "log_loss",
    "recall at .5": "recall_0.5",
    "recall at .9": "recall_0.9",
    "precision at .5": "precision_0.5",
    "precision at .9": "precision_0.9",
}


@dataclass
class CalibrationOptions:
    checkpoint: str = field(metadata={"help": "folder of the checkpoint; its processor is written again"})
    data: list[str] = field(metadata={"help": "reader=NAME,path=FOLDER,split=FILE, once per folder"})
    tiles: int = field(default=12, metadata={"help": "training tiles per data set, evenly spread over the list"})


def table(tiles: dict[str, list[ScoredTile]], after: dict[str, list]) -> str:
    """Markdown: each data set, and all, before and after."""
    groups = {**{name: [name] for name in tiles}, **({"all": list(tiles)} if len(tiles) > 1 else {})}
    lines = [
        "| tiles | scores | nuclei found | " + " | ".join(COLUMNS) + " |",
        "|---|---|" + "---:|" * (1 + len(COLUMNS)),
    ]
    for group, names in groups.items():
        chosen = [tile for name in names for tile in tiles[name]]
        before = [tile.probabilities for tile in chosen]
        for label, scores in (("before", before), ("after", [one for name in names for one in after[name]])):
            values = describe_scores(chosen, scores)
            cells = " | ".join(f"{values[column]:.3f}" for column in COLUMNS.values())
            lines.append(f"| {group} | {label} | {sum(map(len, scores)):,} | {cells} |")
    return "\n".join(lines)


def main() -> None:
    options = HfArgumentParser(CalibrationOptions).parse_args_into_dataclasses()[0]
    chosen = training_tiles(options.data, options.tiles)
    pipe = pipeline("nuclei-segmentation", model=options.checkpoint)
    # A tile of unknown pixel size is taken to have the model's.
    warnings.filterwarnings("ignore", message="mpp is not given")
    # What was fitted before must not be fitted on.
    pipe.image_processor.score_calibration = None
    tiles: dict[str, list[ScoredTile]] = {}
    for name, records in chosen.items():
        for record in records:
            tile = record.load()
            tiles.setdefault(name, []).append(scored_tile(tile, pipe(tile.image, mpp=tile.mpp)))
        print(f"{name}: {', '.join(tile.id for tile in tiles[name])}", flush=True)

    every = [tile for group in tiles.values() for tile in group]
    left_out = iter(leave_tiles_out(every))
    print(table(tiles, {name: [next(left_out) for _ in group] for name, group in tiles.items()}))
    slope, intercept = (round(value, 4) for value in fit_tiles(every))
    write_processor_options(options.checkpoint, pipe.image_processor, score_calibration=[slope, intercept])
    print(f"score_calibration {[slope, intercept]} -> {options.checkpoint}")


if __name__ == "__main__":
    main()
