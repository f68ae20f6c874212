"""Choose the decoding parameters of a checkpoint on tuning tiles, and write them into its processor.

    python examples/tools/tune_decoding.py --checkpoint runs/tiny/model --tiles 12 \
        --data reader=consep,path=CoNSeP,split=examples/splits/consep.json

The network runs once per tile. Then the script searches the parameters one by one, in two passes, for the highest mean
of PQ and AJI (over the tiles of a data set, then over the data sets). It does not read validation tiles. The search
starts from the defaults, whatever the checkpoint's values, and leaves scores that are mean probabilities: calibrate
them next (calibrate_scores.py).
"""

from dataclasses import dataclass, field
from functools import partial

from transformers import HfArgumentParser

from cfsam_hf import DecodingParameters

# Importing it registers the U-Net, so that its checkpoints load.
from cfsam_hf.baselines import unet  # noqa: F401
from cfsam_hf.commands.loading import load_pipeline
from cfsam_hf.commands.messages import errors_in_one_line
from cfsam_hf.evaluation.decoding_search import search_decoding, tuning_case
from cfsam_hf.evaluation.tuning import checkpoint_folder, tuning_tiles, write_processor_options


@dataclass
class TuningOptions:
    checkpoint: str = field(metadata={"help": "folder of the checkpoint; its processor file is rewritten"})
    data: list[str] = field(metadata={"help": "one or several of reader=NAME,path=FOLDER,split=FILE"})
    tiles: int = field(
        default=12,
        metadata={"help": "tuning tiles per data set, evenly spread (training tiles if there are none)"},
    )
    rounds: int = field(default=2, metadata={"help": "passes over all parameters"})


def main() -> None:
    options = HfArgumentParser(TuningOptions).parse_args_into_dataclasses()[0]
    chosen = tuning_tiles(options.data, options.tiles)
    pipe = load_pipeline(str(checkpoint_folder(options.checkpoint)), device=None)
    cases = {}
    for name, records in chosen.items():
        cases[name] = [tuning_case(pipe, record.load()) for record in records]
        print(f"{name}: {', '.join(record.id for record in records)}", flush=True)

    parameters, _ = search_decoding(cases, DecodingParameters(), options.rounds, report=partial(print, flush=True))
    write_processor_options(options.checkpoint, pipe.image_processor, decoding=parameters.to_dict())
    print(f"{parameters} -> {options.checkpoint}")
    print("Scores are now mean probabilities; calibrate them with calibrate_scores.py.")


if __name__ == "__main__":
    with errors_in_one_line():
        main()
