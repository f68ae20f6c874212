"""Train CF-SAM on nuclei data sets, on one CPU, one GPU or many.

A recipe is a YAML file; values on the command line override it, and `--help` lists every value with its reason:

    accelerate launch examples/train.py examples/recipes/consep.yaml --data_root /data --output_dir runs/consep

Adapt SAM (frozen encoder; only adapters, fusion, mask decoder and refinement are trained) without a file:

    accelerate launch examples/train.py --base facebook/sam-vit-base --output_dir runs/sam-b \
        --data reader=consep,path=CoNSeP,split=examples/splits/consep.json

The same command again resumes from the last checkpoint, however the run ended. Ctrl-C, SIGTERM and SIGHUP write a
checkpoint first; the exit status is then 130, 143 or 129. The run's folder gets `log.jsonl`, `checkpoint-<step>/`
(only what is trained), `pictures/` and, at the end, `model/` (a folder for `from_pretrained` with the averaged
weights), `results.json` and `report.html`.
"""

import logging
import sys

from accelerate.utils import set_seed

from cfsam_hf.commands.messages import errors_in_one_line
from cfsam_hf.training import (
    TrainingRun,
    TrainingStopped,
    build_crops,
    build_model,
    build_processor,
    load_training_data,
    make_accelerator,
    parse_recipe,
)


def begin() -> TrainingRun:
    """A new or resumed run, as the command line asks for it."""
    recipe = parse_recipe(description="Train CF-SAM: [RECIPE.yaml] [--name value ...]")
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    accelerator = make_accelerator(recipe)
    set_seed(recipe.optimization.seed)

    # Training tiles, decoded and in memory, and the union of their types.
    data = load_training_data(recipe)

    # SAM with the parts of CF-SAM for these types; what is not trained is frozen.
    model = build_model(recipe, list(data.type_names.values()))
    processor = build_processor(recipe, model.config)

    # Crop i is the same in every run of this recipe, so a resumed run sees the crops it would have seen.
    crops = build_crops(recipe, data, model.config, processor.image_processor, accelerator)

    # Optimiser, averages and processes, restored from the last checkpoint if there is one.
    return TrainingRun(recipe, accelerator, data, model, processor, crops)


def main() -> None:
    with errors_in_one_line():
        run = begin()
    try:
        run.train()
        run.finish()
    except TrainingStopped as stop:
        print(stop, file=sys.stderr)
        sys.exit(stop.exit_status)


if __name__ == "__main__":
    main()
