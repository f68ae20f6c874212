"""Multi-class panoptic quality of nuclei, PanNuke's and CoNIC's, as an `evaluate` module."""

from typing import Any

import datasets
import evaluate
import numpy as np

_DESCRIPTION = """
Panoptic quality by type of nucleus: bPQ and mPQ by the protocol of PanNuke (per image, then over images and over
tissues), and mPQ+ and R2 by that of the CoNIC challenge (counts pooled over the data set).
"""

_KWARGS_DESCRIPTION = """
Args:
    predictions: list of (2, H, W) integer maps: ids (0 background) and types (0 background, 1..num_types).
    references: list of (2, H, W) integer maps of the same shapes; type -100 at nuclei whose type is unknown: they
        and the predictions that match them count in bPQ alone.
    num_types: number of types.
    tissues: tissue of each image, or None.
Returns:
    bpq_mean_over_images, mpq_mean_over_images, type_pq_mean_over_images (list over types 1..num_types): PanNuke;
    bpq_mean_over_tissues, mpq_mean_over_tissues: PanNuke, with tissues;
    mpq_plus_pooled, type_pq_pooled (list), r2_mean_over_types, type_r2 (list): CoNIC.
Examples:
    >>> import evaluate
    >>> from cfsam_hf.metrics import evaluate_module
    >>> metric = evaluate.load(evaluate_module("nuclei_multiclass_panoptic_quality"))
    >>> maps = [[[1, 1, 0, 2]], [[1, 1, 0, 2]]]
    >>> metric.compute(predictions=[maps], references=[maps], num_types=2)["mpq_plus_pooled"]
    1.0
"""

_CITATION = """
@article{gamper2020pannuke,
  title={PanNuke Dataset Extension, Insights and Baselines},
  author={Gamper, Jevgenij and Koohbanani, Navid Alemi and Graham, Simon and Jahanifar, Mostafa and
          Khurram, Syed Ali and Azam, Ayesha and Hewitt, Katherine and Rajpoot, Nasir},
  journal={arXiv preprint arXiv:2003.10778},
  year={2020}
}
"""


@evaluate.utils.file_utils.add_start_docstrings(_DESCRIPTION, _KWARGS_DESCRIPTION)
class NucleiMulticlassPanopticQuality(evaluate.Metric):
    """bPQ, mPQ, mPQ+ and R2 of label maps with type maps."""

    def _info(self) -> evaluate.MetricInfo:
        maps = datasets.Sequence(datasets.Sequence(datasets.Sequence(datasets.Value("int32"))))
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation=_CITATION,
            inputs_description=_KWARGS_DESCRIPTION,
            features=datasets.Features({"predictions": maps, "references": maps}),
        )

    def _compute(
        self, predictions: list[Any], references: list[Any], num_types: int, tissues: list[str] | None = None
    ) -> dict[str, float | list[float]]:
        from cfsam_hf.metrics import conic_quality, pannuke_quality, typed_panoptic_quality

        images = []
        for true, pred in zip(references, predictions, strict=True):
            true_ids, true_types = np.asarray(true)
            pred_ids, pred_types = np.asarray(pred)
            images.append(
                typed_panoptic_quality(
                    true_ids, pred_ids, true_types=true_types, pred_types=pred_types, num_types=num_types
                )
            )
        pannuke, conic = pannuke_quality(images, tissues), conic_quality(images)
        scores: dict[str, float | list[float]] = {
            "bpq_mean_over_images": pannuke.bpq_over_images,
            "mpq_mean_over_images": pannuke.mpq_over_images,
            "type_pq_mean_over_images": list(pannuke.type_pq),
            "mpq_plus_pooled": conic.mpq_plus,
            "type_pq_pooled": list(conic.type_pq_plus),
            "r2_mean_over_types": conic.r2,
            "type_r2": list(conic.type_r2),
        }
        if tissues is not None:
            scores["bpq_mean_over_tissues"] = pannuke.bpq_over_tissues
            scores["mpq_mean_over_tissues"] = pannuke.mpq_over_tissues
        return scores
