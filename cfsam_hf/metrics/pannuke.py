"""bPQ and mPQ by the PanNuke protocol, both averages named."""

from collections.abc import Sequence
from dataclasses import dataclass

from .averages import defined_mean, defined_mean_by
from .panoptic import PanopticQuality
from .typed_panoptic import TypedPanopticQuality


@dataclass(frozen=True)
class PanNukeQuality:
    """PanNuke's scores of a data set (or of one of its folds), under both averages in use.

    Papers mostly print the averages over tissues; averaging over images moves bPQ by a point and more. Values are NaN
    where nothing defines them.

    Attributes:
        bpq_over_tissues: mean over tissues of the mean bPQ of each tissue's images. NaN without tissues.
        mpq_over_tissues: mean over tissues of the mean mPQ of each tissue's images. NaN without tissues.
        bpq_over_images: mean bPQ of all images.
        mpq_over_images: mean mPQ of all images.
        type_pq: mean PQ over images of types 1..T.
        tissue_bpq: mean bPQ of each tissue's images.
        tissue_mpq: mean mPQ of each tissue's images.
        images_without_nuclei: images whose truth is empty, which no average holds.
    """

    bpq_over_tissues: float
    mpq_over_tissues: float
    bpq_over_images: float
    mpq_over_images: float
    type_pq: tuple[float, ...]
    tissue_bpq: dict[str, float]
    tissue_mpq: dict[str, float]
    images_without_nuclei: int


def pannuke_quality(images: Sequence[TypedPanopticQuality], tissues: Sequence[str] | None = None) -> PanNukeQuality:
    """Averages the counts of single images as PanNuke does.

    An image without true nuclei has no bPQ, and a type absent from the truth of an image has no PQ there, so that its
    false alarms are free. An image's mPQ is the mean over the types it has. The mean over tissues weighs a tissue with
    few images as much as one with many.

    Args:
        images: `typed_panoptic_quality` of each image (not added up).
        tissues: tissue of each image, or None where they are unknown.

    Raises:
        ValueError: no images, a tissue missing, differing numbers of types.

    References:
        Gamper et al., "PanNuke Dataset Extension, Insights and Baselines", arXiv 2003.10778 (2020); `run.py` of
        PanNuke-metrics, whose SQ carries a guard of 1e-6 in the denominator.

    Example:
        >>> found = TypedPanopticQuality(PanopticQuality(1, 0, 1, 0.9), (PanopticQuality(1, 0, 1, 0.9),))
        >>> empty = TypedPanopticQuality(PanopticQuality(0, 3, 0, 0.0), (PanopticQuality(0, 3, 0, 0.0),))
        >>> quality = pannuke_quality([found, empty, found], ["Breast", "Breast", "Colon"])
        >>> round(quality.bpq_over_tissues, 3), round(quality.mpq_over_images, 3), quality.images_without_nuclei
        (0.6, 0.6, 1)
    """
    if not len(images):
        raise ValueError("no images: PanNuke's averages need at least one")
    if tissues is not None and len(tissues) != len(images):
        raise ValueError(f"{len(images)} images but {len(tissues)} tissues; give one tissue per image")
    if len({len(image.types) for image in images}) > 1:
        raise ValueError("images were scored with differing numbers of types; score all with one num_types")

    bpq = [_pq_where_true(image.nuclei) for image in images]
    type_pq = [[_pq_where_true(counts) for counts in image.types] for image in images]
    mpq = [defined_mean(of_image) for of_image in type_pq]
    tissue_bpq = defined_mean_by(bpq, tissues) if tissues is not None else {}
    tissue_mpq = defined_mean_by(mpq, tissues) if tissues is not None else {}
    return PanNukeQuality(
        bpq_over_tissues=defined_mean(tissue_bpq.values()),
        mpq_over_tissues=defined_mean(tissue_mpq.values()),
        bpq_over_images=defined_mean(bpq),
        mpq_over_images=defined_mean(mpq),
        type_pq=tuple(defined_mean(of_type) for of_type in zip(*type_pq, strict=True)),
        tissue_bpq=tissue_bpq,
        tissue_mpq=tissue_mpq,
        images_without_nuclei=sum(image.nuclei.num_true == 0 for image in images),
    )


def _pq_where_true(counts: PanopticQuality) -> float:
    return counts.pq if counts.num_true else float("nan")
