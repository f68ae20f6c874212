"""F1 of the boundaries of nuclei as an `evaluate` module."""

from typing import Any

import datasets
import evaluate
import numpy as np

_DESCRIPTION = """
Boundary F1 of nuclei instance segmentation: share of the predicted boundary pixels within a tolerance of a true one
(precision) and of the true ones within it of a predicted one (recall), and their harmonic mean. Lines between touching
nuclei are boundary.
"""

_KWARGS_DESCRIPTION = """
Args:
    predictions: list of (H, W) integer label maps, 0 background, one id per nucleus.
    references: list of (H, W) integer label maps of the same shapes.
    tolerance: pixels, inclusive.
Returns:
    boundary_f1_mean_over_images: images without any nucleus on either side left out.
    boundary_f1_pooled, boundary_precision_pooled, boundary_recall_pooled: from pixels counted over all images.
Examples:
    >>> import evaluate
    >>> from cfsam_hf.metrics import evaluate_module
    >>> metric = evaluate.load(evaluate_module("nuclei_boundary_f1"))
    >>> maps = {"predictions": [[[0, 0, 1, 1, 1, 0]]], "references": [[[0, 1, 1, 0, 0, 0]]]}
    >>> metric.compute(**maps, tolerance=0)["boundary_f1_pooled"]
    0.4
"""

_CITATION = """
@inproceedings{csurka2013what,
  title={What is a good evaluation measure for semantic segmentation?},
  author={Csurka, Gabriela and Larlus, Diane and Perronnin, Florent},
  booktitle={BMVC},
  year={2013}
}
"""


@evaluate.utils.file_utils.add_start_docstrings(_DESCRIPTION, _KWARGS_DESCRIPTION)
class NucleiBoundaryF1(evaluate.Metric):
    """Boundary F1, precision and recall of label maps."""

    def _info(self) -> evaluate.MetricInfo:
        label_map = datasets.Sequence(datasets.Sequence(datasets.Value("int32")))
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation=_CITATION,
            inputs_description=_KWARGS_DESCRIPTION,
            features=datasets.Features({"predictions": label_map, "references": label_map}),
        )

    def _compute(self, predictions: list[Any], references: list[Any], tolerance: float = 2.0) -> dict[str, float]:
        from cfsam_hf.metrics import boundary_counts, defined_mean, pooled

        images = [
            boundary_counts(np.asarray(true), np.asarray(pred), tolerance=tolerance)
            for true, pred in zip(references, predictions, strict=True)
        ]
        total = pooled(images)
        return {
            "boundary_f1_mean_over_images": defined_mean(image.f1 for image in images),
            "boundary_f1_pooled": total.f1,
            "boundary_precision_pooled": total.precision,
            "boundary_recall_pooled": total.recall,
        }
