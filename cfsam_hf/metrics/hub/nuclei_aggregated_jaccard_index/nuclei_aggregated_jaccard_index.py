"""Aggregated Jaccard index and Dice of nuclei as an `evaluate` module."""

from typing import Any

import datasets
import evaluate
import numpy as np

_DESCRIPTION = """
Aggregated Jaccard index of nuclei instance segmentation (AJI, and AJI+ with one-to-one pairing), with the Dice of the
foreground and Dice2. Each is the mean over images.
"""

_KWARGS_DESCRIPTION = """
Args:
    predictions: list of (H, W) integer label maps, 0 background, one id per nucleus.
    references: list of (H, W) integer label maps of the same shapes.
Returns:
    aji_mean_over_images, aji_plus_mean_over_images, dice_mean_over_images, dice2_mean_over_images: images without any
    nucleus on either side left out.
Examples:
    >>> import evaluate
    >>> from cfsam_hf.metrics import evaluate_module
    >>> metric = evaluate.load(evaluate_module("nuclei_aggregated_jaccard_index"))
    >>> metric.compute(predictions=[[[1, 1, 0, 2]]], references=[[[3, 3, 0, 0]]])["aji_mean_over_images"]
    0.6666666666666666
"""

_CITATION = """
@article{kumar2017dataset,
  title={A Dataset and a Technique for Generalized Nuclear Segmentation for Computational Pathology},
  author={Kumar, Neeraj and Verma, Ruchika and Sharma, Sanuj and Bhargava, Surabhi and Vahadane, Abhishek and
          Sethi, Amit},
  journal={IEEE Transactions on Medical Imaging},
  volume={36},
  year={2017}
}
"""


@evaluate.utils.file_utils.add_start_docstrings(_DESCRIPTION, _KWARGS_DESCRIPTION)
class NucleiAggregatedJaccardIndex(evaluate.Metric):
    """AJI, AJI+, Dice and Dice2 of label maps."""

    def _info(self) -> evaluate.MetricInfo:
        label_map = datasets.Sequence(datasets.Sequence(datasets.Value("int32")))
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation=_CITATION,
            inputs_description=_KWARGS_DESCRIPTION,
            features=datasets.Features({"predictions": label_map, "references": label_map}),
        )

    def _compute(self, predictions: list[Any], references: list[Any]) -> dict[str, float]:
        from cfsam_hf.metrics import (
            aggregated_jaccard_index,
            aggregated_jaccard_index_plus,
            defined_mean,
            dice,
            dice2,
            overlap_table,
        )

        tables = [
            overlap_table(np.asarray(true), np.asarray(pred))
            for true, pred in zip(references, predictions, strict=True)
        ]
        return {
            "aji_mean_over_images": defined_mean(aggregated_jaccard_index(table) for table in tables),
            "aji_plus_mean_over_images": defined_mean(aggregated_jaccard_index_plus(table) for table in tables),
            "dice_mean_over_images": defined_mean(dice(table) for table in tables),
            "dice2_mean_over_images": defined_mean(dice2(table) for table in tables),
        }
