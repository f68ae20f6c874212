"""Detection and type F1 of nuclei as an `evaluate` module."""

from typing import Any

import datasets
import evaluate
import numpy as np

_DESCRIPTION = """
Detection of nuclei by pairing centroids one to one (12 px at 40x), and type F1 by the protocol of HoVer-Net. Counts
are pooled over all images.
"""

_KWARGS_DESCRIPTION = """
Args:
    predictions: list of (N, 3) x, y (pixels) and type of the predicted nuclei of each image; type 0 where untyped.
    references: list of (N, 3) x, y and type of the true nuclei; type -100 where it is unknown: such nuclei and the
        predictions paired with them count in detection alone.
    num_types: number of types (0: detection only).
    radius: pixels within which centroids pair; 12 at 0.25 um/px, 6 at 0.5.
    pairing: "hovernet" as in published figures, or "within_radius".
Returns:
    detection_f1_pooled, detection_precision_pooled, detection_recall_pooled; with types also type_accuracy_pooled and
    type_f1_pooled, type_precision_pooled, type_recall_pooled: lists over types 1..num_types.
Examples:
    >>> import evaluate
    >>> from cfsam_hf.metrics import evaluate_module
    >>> metric = evaluate.load(evaluate_module("nuclei_detection"))
    >>> metric.compute(predictions=[[[5, 5, 1]]], references=[[[6, 5, 1], [90, 90, 2]]], num_types=2)["type_f1_pooled"]
    [1.0, 0.0]
"""

_CITATION = """
@article{graham2019hovernet,
  title={Hover-Net: Simultaneous segmentation and classification of nuclei in multi-tissue histology images},
  author={Graham, Simon and Vu, Quoc Dang and Raza, Shan E Ahmed and Azam, Ayesha and Tsang, Yee Wah and
          Kwak, Jin Tae and Rajpoot, Nasir},
  journal={Medical Image Analysis},
  volume={58},
  year={2019}
}
"""


@evaluate.utils.file_utils.add_start_docstrings(_DESCRIPTION, _KWARGS_DESCRIPTION)
class NucleiDetection(evaluate.Metric):
    """Detection F1 and type F1 of centroids."""

    def _info(self) -> evaluate.MetricInfo:
        nuclei = datasets.Sequence(datasets.Sequence(datasets.Value("float64")))
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation=_CITATION,
            inputs_description=_KWARGS_DESCRIPTION,
            features=datasets.Features({"predictions": nuclei, "references": nuclei}),
        )

    def _compute(
        self,
        predictions: list[Any],
        references: list[Any],
        num_types: int = 0,
        radius: float = 12.0,
        pairing: str = "hovernet",
    ) -> dict[str, float | list[float]]:
        from cfsam_hf.metrics import detection_counts_from_centroids, pooled

        def points(nuclei: list[Any]) -> tuple[np.ndarray, np.ndarray]:
            rows = np.asarray(nuclei, dtype=np.float64).reshape(-1, 3)
            return rows[:, :2], rows[:, 2].astype(np.int64) if num_types else np.zeros(len(rows), np.int64)

        images = []
        for true, pred in zip(references, predictions, strict=True):
            (true_xy, true_types), (pred_xy, pred_types) = points(true), points(pred)
            images.append(
                detection_counts_from_centroids(
                    true_xy,
                    pred_xy,
                    true_types=true_types,
                    pred_types=pred_types,
                    num_types=num_types,
                    radius=radius,
                    pairing=pairing,
                )
            )
        counts = pooled(images)
        scores: dict[str, float | list[float]] = {
            "detection_f1_pooled": counts.f1,
            "detection_precision_pooled": counts.precision,
            "detection_recall_pooled": counts.recall,
        }
        if num_types:
            scores["type_accuracy_pooled"] = counts.type_accuracy
            scores["type_f1_pooled"] = counts.type_f1.tolist()
            scores["type_precision_pooled"] = counts.type_precision.tolist()
            scores["type_recall_pooled"] = counts.type_recall.tolist()
        return scores
