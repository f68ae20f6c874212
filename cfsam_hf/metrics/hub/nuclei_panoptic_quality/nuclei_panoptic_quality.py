"""Panoptic quality of nuclei as an `evaluate` module."""

from typing import Any

import datasets
import evaluate
import numpy as np

_DESCRIPTION = """
Panoptic quality of nuclei instance segmentation: PQ = DQ x SQ, where nuclei match at IoU > 0.5. Scores are averaged
over images (`..._mean_over_images`, the custom of HoVer-Net) and computed from pooled counts (`..._pooled`).
"""

_KWARGS_DESCRIPTION = """
Args:
    predictions: list of (H, W) integer label maps, 0 background, one id per nucleus.
    references: list of (H, W) integer label maps of the same shapes.
Returns:
    pq_mean_over_images, dq_mean_over_images, sq_mean_over_images: images without any nucleus on either side left out.
    pq_pooled, dq_pooled, sq_pooled: from counts added over all images.
    true_positives, false_positives, false_negatives: those counts.
Examples:
    >>> import evaluate
    >>> from cfsam_hf.metrics import evaluate_module
    >>> metric = evaluate.load(evaluate_module("nuclei_panoptic_quality"))
    >>> metric.compute(predictions=[[[1, 1, 0, 2]]], references=[[[3, 3, 0, 0]]])["pq_pooled"]
    0.6666666666666666
"""

_CITATION = """
@inproceedings{kirillov2019panoptic,
  title={Panoptic Segmentation},
  author={Kirillov, Alexander and He, Kaiming and Girshick, Ross and Rother, Carsten and Doll{\\'a}r, Piotr},
  booktitle={CVPR},
  year={2019}
}
"""


@evaluate.utils.file_utils.add_start_docstrings(_DESCRIPTION, _KWARGS_DESCRIPTION)
class NucleiPanopticQuality(evaluate.Metric):
    """PQ, DQ and SQ of label maps."""

    def _info(self) -> evaluate.MetricInfo:
        label_map = datasets.Sequence(datasets.Sequence(datasets.Value("int32")))
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation=_CITATION,
            inputs_description=_KWARGS_DESCRIPTION,
            features=datasets.Features({"predictions": label_map, "references": label_map}),
        )

    def _compute(self, predictions: list[Any], references: list[Any]) -> dict[str, float]:
        from cfsam_hf.metrics import defined_mean, panoptic_quality, pooled

        images = [
            panoptic_quality(np.asarray(true), np.asarray(pred))
            for true, pred in zip(references, predictions, strict=True)
        ]
        total = pooled(images)
        return {
            "pq_mean_over_images": defined_mean(image.pq for image in images),
            "dq_mean_over_images": defined_mean(image.dq for image in images),
            "sq_mean_over_images": defined_mean(image.sq for image in images),
            "pq_pooled": total.pq,
            "dq_pooled": total.dq,
            "sq_pooled": total.sq,
            "true_positives": total.true_positives,
            "false_positives": total.false_positives,
            "false_negatives": total.false_negatives,
        }
