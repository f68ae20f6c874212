"""Score a checkpoint on the validation tiles of split files and write one results file.

    python examples/evaluate.py --checkpoint runs/sam-b/model --output results.json \
        --data reader=consep,path=CoNSeP,split=examples/splits/consep.json

Each figure is named by how it is averaged (see `cfsam_hf.metrics.summarize`).
"""

import platform
import time
import warnings
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path

import torch
from transformers import HfArgumentParser, pipeline

import cfsam_hf
from cfsam_hf.training.data_items import DataItem, records_by_dataset
from cfsam_hf.training.json_files import write_json
from cfsam_hf.training.validation import evaluate_tiles

HEADLINES = ("dice", "aji", "pq")


@dataclass
class EvaluationOptions:
    data: list[str] = field(metadata={"help": "reader=NAME,path=FOLDER,split=FILE, once per folder"})
    checkpoint: str | None = field(default=None, metadata={"help": "folder or Hub id; default: the bundled one"})
    output: str = field(default="results.json", metadata={"help": "file to write"})
    part: str = field(default="validation", metadata={"help": "validation or train"})
    device: str | None = field(default=None, metadata={"help": "such as cuda or cpu"})


def main() -> None:
    options = HfArgumentParser(EvaluationOptions).parse_args_into_dataclasses()[0]
    checkpoint = options.checkpoint or str(cfsam_hf.bundled_checkpoint())
    items = [DataItem.parse(text) for text in options.data]
    groups = records_by_dataset(items, options.part)
    if not groups:
        raise ValueError(f"None of the {options.part} tiles of the split files are in {options.data}.")
    pipe = pipeline("nuclei-segmentation", model=checkpoint, device=options.device)
    # Tiles of unknown mpp are taken as they are; the reader says so already.
    warnings.filterwarnings("ignore", message="mpp is not given")
    results = {}
    for name, records in groups.items():
        began = time.monotonic()
        scores = evaluate_tiles(
            lambda tile: pipe(tile.image, mpp=tile.mpp),
            (record.load() for record in records),
            pipe.model.config.type_names,
        )
        results[name] = {
            "tiles": [record.id for record in records],
            "seconds": round(time.monotonic() - began, 1),
            "scores": scores,
        }
        shown = {what: round(scores[f"{what}_mean_over_images"], 4) for what in HEADLINES}
        print(name, shown, {k: round(v, 4) for k, v in scores.items() if k.startswith(("detection_f1", "type_f1"))})
    record = {
        "checkpoint": Path(checkpoint).name,
        "part": options.part,
        "splits": sorted({item.split for item in items if item.split}),
        "decoding": pipe.image_processor.decoding_parameters().to_dict(),
        "cfsam_hf": version("cfsam_hf"),
        "torch": torch.__version__,
        "machine": f"{platform.machine()}, {torch.get_num_threads()} threads, {pipe.device}",
        "results": results,
    }
    write_json(Path(options.output), record)


if __name__ == "__main__":
    main()
