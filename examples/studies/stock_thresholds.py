"""Recall and precision of `pipeline("image-segmentation")` at its default threshold of .9 and at lower ones.

    python examples/studies/stock_thresholds.py \
        --data reader=consep,path=CoNSeP,split=examples/splits/consep.json

Each validation tile passes through the network in one piece, as in that pipeline. Pairs are at IoU > .5, pooled over
the tiles. For comparison the Markdown table has a row for `pipeline("nuclei-segmentation")`, which works in windows.
"""

import warnings
from dataclasses import dataclass, field

import numpy as np
import torch
from transformers import HfArgumentParser, pipeline

from cfsam_hf.commands.loading import load_pipeline, resolve_checkpoint
from cfsam_hf.commands.messages import errors_in_one_line
from cfsam_hf.data.data_items import DataItem, records_by_dataset
from cfsam_hf.metrics import matched_nuclei, overlap_table

THRESHOLDS = (0.9, 0.7, 0.5, 0.0)


@dataclass
class StockOptions:
    data: list[str] = field(metadata={"help": "one or several of reader=NAME,path=FOLDER,split=FILE"})
    checkpoint: str | None = field(
        default=None, metadata={"help": "bundled checkpoint, folder or Hub id (default: cfsam-tiny)"}
    )
    device: str | None = field(default=None, metadata={"help": "such as cuda or cpu"})


@dataclass
class Outcomes:
    """Scores of the nuclei found (N,), whether each matches a true one (N,), and the number of true nuclei."""

    scores: np.ndarray
    matched: np.ndarray
    true_nuclei: int

    @classmethod
    def of(cls, truth: np.ndarray, instance_map: np.ndarray, scores: np.ndarray) -> "Outcomes":
        # In the order of ids, like the scores.
        matched = matched_nuclei(overlap_table(truth, instance_map)).values()
        return cls(scores, np.fromiter(matched, dtype=bool), len(np.unique(truth[truth > 0])))

    def __add__(self, other: "Outcomes") -> "Outcomes":
        return Outcomes(
            np.concatenate([self.scores, other.scores]),
            np.concatenate([self.matched, other.matched]),
            self.true_nuclei + other.true_nuclei,
        )

    def row(self, threshold: float) -> str:
        kept = self.scores >= threshold
        hits = np.count_nonzero(self.matched & kept)
        recall, precision = hits / max(1, self.true_nuclei), hits / max(1, np.count_nonzero(kept))
        return f"{np.count_nonzero(kept):,} | {recall:.3f} | {precision:.3f}"


def stock_nuclei(stock, image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The label map (H, W) and scores from which the stock pipeline makes its masks, which would take a GB."""
    inputs = stock.image_processor(images=[image], return_tensors="pt").to(stock.dtype).to(stock.device)
    with torch.inference_mode():
        outputs = stock.model(**inputs)
    [found] = stock.image_processor.post_process_instance_segmentation(
        outputs, threshold=0.0, mask_threshold=0.5, overlap_mask_area_threshold=0.5, target_sizes=[image.shape[:2]]
    )
    scores = np.array([segment["score"] for segment in found["segments_info"]])
    return found["segmentation"].numpy(), scores


def main() -> None:
    options = HfArgumentParser(StockOptions).parse_args_into_dataclasses()[0]
    # Loaded first, since it reports a faulty checkpoint in one sentence.
    tiled = load_pipeline(options.checkpoint, options.device)
    stock = pipeline("image-segmentation", model=resolve_checkpoint(options.checkpoint), device=options.device)
    warnings.filterwarnings("ignore", message="mpp is not given")
    print("| | threshold | found | recall | precision |\n|---|---|---|---|---|")
    for name, records in records_by_dataset([DataItem.parse(text) for text in options.data], "validation").items():
        nothing = Outcomes(np.zeros(0), np.zeros(0, dtype=bool), 0)
        in_one_pass, in_tiles = nothing, nothing
        for record in records:
            tile = record.load()
            in_one_pass += Outcomes.of(tile.instance_map, *stock_nuclei(stock, tile.image))
            result = tiled(tile.image)
            in_tiles += Outcomes.of(tile.instance_map, result.instance_map, result.table["score"].to_numpy())
        for threshold in THRESHOLDS:
            print(f"| {name}, image-segmentation | {threshold} | {in_one_pass.row(threshold)} |")
        print(f"| {name}, nuclei-segmentation | 0.0 | {in_tiles.row(0.0)} |", flush=True)


if __name__ == "__main__":
    with errors_in_one_line():
        main()
