"""Calibrate the scores of a checkpoint on tuning tiles, and write the weights into its processor.

    python examples/tools/calibrate_scores.py --checkpoint runs/tiny/model --tiles 12 \
        --data reader=consep,path=CoNSeP,split=examples/splits/consep.json

A score should be the probability that the nucleus overlaps a true one with IoU > .5. The network runs once per tile.
The script fits the weights of a logistic regression on the mean probability, edge, form, neighbours and size of every
nucleus in all tiles, and chooses the `minimum_score` with the highest mean of PQ and AJI. It prints the quality of the
checkpoint's scores and of the fitted ones, the latter on tiles that were left out of the fit one by one. Choose the
decoding parameters first (tune_decoding.py), since other nuclei need another calibration. Tiles of other pixel sizes
are compared in the model's pixels. The script does not read validation tiles. If a split has no tuning tiles, it uses
training tiles; the network has seen these, so scores of new images may then be a little too high.
"""

from dataclasses import asdict, dataclass, field, replace

from transformers import HfArgumentParser

from cfsam_hf import DecodingParameters

# Importing it registers the U-Net, so that its checkpoints load.
from cfsam_hf.baselines import unet  # noqa: F401
from cfsam_hf.commands.loading import load_pipeline
from cfsam_hf.commands.messages import errors_in_one_line
from cfsam_hf.evaluation.decoding_search import choose_minimum_score, tuning_case
from cfsam_hf.evaluation.score_calibration import ScoredTile, describe_scores, fit_tiles, leave_tiles_out, scored_tile
from cfsam_hf.evaluation.tuning import checkpoint_folder, tuning_tiles, write_processor_options
from cfsam_hf.model.scores import ScoreWeights

COLUMNS = {
    "AUROC": "auroc",
    "ECE": "ece",
    "log loss": "log_loss",
    "recall at .5": "recall_0.5",
    "recall at .9": "recall_0.9",
    "precision at .5": "precision_0.5",
    "precision at .9": "precision_0.9",
}


@dataclass
class CalibrationOptions:
    checkpoint: str = field(metadata={"help": "folder of the checkpoint; its processor file is rewritten"})
    data: list[str] = field(metadata={"help": "one or several of reader=NAME,path=FOLDER,split=FILE"})
    tiles: int = field(
        default=12,
        metadata={"help": "tuning tiles per data set, evenly spread (training tiles if there are none)"},
    )


def table(tiles: dict[str, list[ScoredTile]], before: ScoreWeights, after: dict[str, list]) -> str:
    """A Markdown table of each data set and of all, with the score weights of the checkpoint and the fitted ones."""
    groups = {**{name: [name] for name in tiles}, **({"all": list(tiles)} if len(tiles) > 1 else {})}
    lines = [
        "| tiles | scores | nuclei found | " + " | ".join(COLUMNS) + " |",
        "|---|---|" + "---:|" * (1 + len(COLUMNS)),
    ]
    for group, names in groups.items():
        chosen = [tile for name in names for tile in tiles[name]]
        found = [before.scores(tile.measures) for tile in chosen]
        for label, scores in (("before", found), ("after", [one for name in names for one in after[name]])):
            values = describe_scores(chosen, scores)
            cells = " | ".join(f"{values[column]:.3f}" for column in COLUMNS.values())
            lines.append(f"| {group} | {label} | {sum(map(len, scores)):,} | {cells} |")
    return "\n".join(lines)


def calibrated(
    parameters: DecodingParameters, tiles: dict[str, list[ScoredTile]], cases: dict[str, list]
) -> DecodingParameters:
    """The parameters with fitted weights, rounded as in the file, and the best `minimum_score` for them."""
    weights = fit_tiles([tile for group in tiles.values() for tile in group])
    rounded = ScoreWeights(**{name: round(value, 4) for name, value in asdict(weights).items()})
    return choose_minimum_score(cases, replace(parameters, score_weights=rounded))


def main() -> None:
    options = HfArgumentParser(CalibrationOptions).parse_args_into_dataclasses()[0]
    chosen = tuning_tiles(options.data, options.tiles)
    if sum(map(len, chosen.values())) < 2:
        raise ValueError("at least two tiles are needed, since the fit of the others judges each tile")
    pipe = load_pipeline(str(checkpoint_folder(options.checkpoint)), device=None)
    parameters = pipe.image_processor.decoding_parameters()
    cases: dict[str, list] = {}
    tiles: dict[str, list[ScoredTile]] = {}
    for name, records in chosen.items():
        cases[name] = [tuning_case(pipe, record.load()) for record in records]
        tiles[name] = [scored_tile(maps, truth, parameters) for maps, truth in cases[name]]
        print(f"{name}: {', '.join(record.id for record in records)}", flush=True)

    left_out = iter(leave_tiles_out([tile for group in tiles.values() for tile in group]))
    after = {name: [next(left_out) for _ in group] for name, group in tiles.items()}
    print(table(tiles, parameters.score_weights, after))
    parameters = calibrated(parameters, tiles, cases)
    write_processor_options(options.checkpoint, pipe.image_processor, decoding=parameters.to_dict())
    print(f"{parameters.score_weights}, minimum_score {parameters.minimum_score} -> {options.checkpoint}")


if __name__ == "__main__":
    with errors_in_one_line():
        main()
