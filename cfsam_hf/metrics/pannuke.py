"""bPQ and mPQ by the PanNuke protocol, both averages named."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np

from .averages import first_values, row_means, weighted_means
from .typed_panoptic import TypedPanopticQuality

Value = TypeVar("Value", float, np.ndarray)


@dataclass(frozen=True)
class PanNukeQuality(Generic[Value]):
    """PanNuke's scores of a data set (or of one of its folds) as numbers, or of R data sets as arrays (R,).

    Papers mostly print the averages over tissues; averaging over images changes bPQ by a point or more. Values are NaN
    where nothing defines them.

    Attributes:
        bpq_over_tissues: mean over tissues of the mean bPQ of each tissue's images. NaN without tissues.
        mpq_over_tissues: mean over tissues of the mean mPQ of each tissue's images. NaN without tissues.
        bpq_over_images: mean bPQ of all images.
        mpq_over_images: mean mPQ of all images.
        type_pq: mean PQ over images of types 1..T.
        tissue_bpq: mean bPQ of each tissue's images.
        tissue_mpq: mean mPQ of each tissue's images.
        images_without_nuclei: images whose truth is empty, which no average includes.
    """

    bpq_over_tissues: Value
    mpq_over_tissues: Value
    bpq_over_images: Value
    mpq_over_images: Value
    type_pq: tuple[Value, ...]
    tissue_bpq: dict[str, Value]
    tissue_mpq: dict[str, Value]
    images_without_nuclei: int


def pannuke_quality(
    images: Sequence[TypedPanopticQuality], tissues: Sequence[str] | None = None
) -> PanNukeQuality[float]:
    """Averages the counts of single images as PanNuke does.

    An image without true nuclei has no bPQ, and a type absent from the truth of an image has no PQ there, so its false
    alarms are free. An image's mPQ is the mean over its types. In the mean over tissues, a tissue with few images has
    the same weight as one with many.

    Args:
        images: `typed_panoptic_quality` of each image (not added up).
        tissues: tissue of each image, or None where they are unknown.

    Raises:
        ValueError: no images, a tissue missing, differing numbers of types.

    References:
        Gamper et al., "PanNuke Dataset Extension, Insights and Baselines", arXiv 2003.10778 (2020); `run.py` of
        PanNuke-metrics, whose SQ carries a guard of 1e-6 in the denominator.

    Example:
        >>> from cfsam_hf.metrics import PanopticQuality
        >>> found = TypedPanopticQuality(PanopticQuality(1, 0, 1, 0.9), (PanopticQuality(1, 0, 1, 0.9),))
        >>> empty = TypedPanopticQuality(PanopticQuality(0, 3, 0, 0.0), (PanopticQuality(0, 3, 0, 0.0),))
        >>> quality = pannuke_quality([found, empty, found], ["Breast", "Breast", "Colon"])
        >>> round(quality.bpq_over_tissues, 3), round(quality.mpq_over_images, 3), quality.images_without_nuclei
        (0.6, 0.6, 1)
    """
    quality: PanNukeQuality[float] = first_values(weighted_pannuke_quality(images, np.ones((1, len(images))), tissues))
    return quality


def weighted_pannuke_quality(
    images: Sequence[TypedPanopticQuality], weights: np.ndarray, tissues: Sequence[str] | None = None
) -> PanNukeQuality[np.ndarray]:
    """As `pannuke_quality`, of R data sets that hold the N images as often as weights (R, N) say.

    Example:
        >>> from cfsam_hf.metrics import PanopticQuality
        >>> found, missed = (TypedPanopticQuality(PanopticQuality(n, 0, 1 - n, n), ()) for n in (1, 0))
        >>> weighted_pannuke_quality([found, missed], np.array([[1, 1], [3, 1]])).bpq_over_images.tolist()
        [0.5, 0.75]
    """
    if not len(images):
        raise ValueError("no images: PanNuke's averages need at least one")
    if tissues is not None and len(tissues) != len(images):
        raise ValueError(f"{len(images)} images but {len(tissues)} tissues; give one tissue per image")
    if len({len(image.types) for image in images}) > 1:
        raise ValueError("images were scored with differing numbers of types; score all with one num_types")

    bpq = np.array([image.nuclei.pq_of_present for image in images])
    type_pq = np.array([[of_type.pq_of_present for of_type in image.types] for image in images])  # (N, T)
    mpq = row_means(type_pq)
    tissue_of = np.array([] if tissues is None else tissues)

    def by_tissue(values: np.ndarray) -> dict[str, np.ndarray]:
        return {
            tissue: weighted_means(weights[:, tissue_of == tissue], values[tissue_of == tissue])
            for tissue in dict.fromkeys(tissues or ())
        }

    def over_tissues(means: dict[str, np.ndarray]) -> np.ndarray:
        return row_means(np.stack(list(means.values()), axis=1)) if means else np.full(len(weights), np.nan)

    tissue_bpq, tissue_mpq = by_tissue(bpq), by_tissue(mpq)
    return PanNukeQuality(
        bpq_over_tissues=over_tissues(tissue_bpq),
        mpq_over_tissues=over_tissues(tissue_mpq),
        bpq_over_images=weighted_means(weights, bpq),
        mpq_over_images=weighted_means(weights, mpq),
        type_pq=tuple(weighted_means(weights, of_type) for of_type in type_pq.T),
        tissue_bpq=tissue_bpq,
        tissue_mpq=tissue_mpq,
        images_without_nuclei=sum(image.nuclei.num_true == 0 for image in images),
    )
