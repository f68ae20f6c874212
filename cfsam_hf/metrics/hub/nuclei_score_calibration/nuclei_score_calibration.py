"""Expected calibration error of the scores of nuclei as an `evaluate` module."""

from typing import Any

import datasets
import evaluate
import numpy as np

_DESCRIPTION = """
Expected calibration error (ECE) of the scores of predicted nuclei. Scores are calibrated if the share of nuclei that
match a true one (IoU > 0.5) equals their score. Nuclei are pooled over all images.
"""

_KWARGS_DESCRIPTION = """
Args:
    predictions: list of (H, W) integer label maps, 0 background, one id per nucleus.
    references: list of (H, W) integer label maps of the same shapes.
    scores: list of (N,) scores in [0, 1] of each image's predicted nuclei, that of id i + 1 at i.
    num_bins: equal bins over [0, 1].
    iou_threshold: at least 0.5.
Returns:
    score_ece_pooled: mean over nuclei of the gap between their bin's mean score and its share of matches.
    bin_counts, bin_mean_scores, bin_match_rates: lists over the bins, for a reliability diagram; NaN where empty.
Examples:
    >>> import evaluate
    >>> from cfsam_hf.metrics import evaluate_module
    >>> metric = evaluate.load(evaluate_module("nuclei_score_calibration"))
    >>> maps = {"predictions": [[[1, 1, 0, 2]]], "references": [[[3, 3, 0, 0]]]}
    >>> metric.compute(**maps, scores=[[0.75, 0.25]])["score_ece_pooled"]
    0.25
"""

_CITATION = """
@inproceedings{guo2017calibration,
  title={On Calibration of Modern Neural Networks},
  author={Guo, Chuan and Pleiss, Geoff and Sun, Yu and Weinberger, Kilian Q.},
  booktitle={ICML},
  year={2017}
}
"""


@evaluate.utils.file_utils.add_start_docstrings(_DESCRIPTION, _KWARGS_DESCRIPTION)
class NucleiScoreCalibration(evaluate.Metric):
    """ECE and the bins of a reliability diagram, from label maps and scores."""

    def _info(self) -> evaluate.MetricInfo:
        label_map = datasets.Sequence(datasets.Sequence(datasets.Value("int32")))
        scores = datasets.Sequence(datasets.Value("float64"))
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation=_CITATION,
            inputs_description=_KWARGS_DESCRIPTION,
            features=datasets.Features({"predictions": label_map, "references": label_map, "scores": scores}),
        )

    def _compute(
        self,
        predictions: list[Any],
        references: list[Any],
        scores: list[Any],
        num_bins: int = 15,
        iou_threshold: float = 0.5,
    ) -> dict[str, float | list[float]]:
        from cfsam_hf.metrics import pooled, score_calibration_counts

        total = pooled(
            score_calibration_counts(
                np.asarray(true), np.asarray(pred), scores=of_image, iou_threshold=iou_threshold, num_bins=num_bins
            )
            for true, pred, of_image in zip(references, predictions, scores, strict=True)
        )
        return {
            "score_ece_pooled": total.ece,
            "bin_counts": total.counts.tolist(),
            "bin_mean_scores": total.mean_scores.tolist(),
            "bin_match_rates": total.match_rates.tolist(),
        }
