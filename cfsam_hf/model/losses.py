"""The losses. Each is computed per image, then averaged over the images, so it adds up over batches and processes.

An image without what a term needs (nuclei, type labels, annotated pixels) contributes exactly zero to that term, with
gradients that are zero, not missing.
"""

from dataclasses import dataclass, fields
from functools import partial

import torch
import torch.nn.functional as F

IGNORE_INDEX = -100
# Label of nuclei maps: probably background, in images of which some nuclei have no outline.
DOUBTFUL = -1
# Probability of a nucleus from which a model's opinion outweighs a doubtful label.
CONFIDENT = 0.7
# Pixels between the two ends of the finite difference that approximates the gradient of the HV maps.
HV_GRADIENT_SPAN = 4
# Side of the square around a pixel whose share of nuclei shows whether a contour faces another nucleus: at most 5/9
# along a straight contour that faces tissue, and up to 1 where two nuclei touch.
CONTACT_WINDOW = 9
# Shares of nuclei from which a contour pixel starts to count as facing another nucleus, and counts fully.
CONTACT_SHARES = (0.6, 0.9)


@dataclass(frozen=True)
class LossWeights:
    """Weights of the terms, this project's choice; the order of magnitude follows CellViT and HoVer-Net.

    `hv_*` are in squared units of the HV maps (each nucleus spans -1..1), hence larger. `initial` multiplies the same
    terms on the initial maps. `contact` is not a term: a pixel where nuclei touch, or nearly touch, counts up to
    1 + `contact` times in every mean over pixels of the nuclei, HV and boundary maps (see [`contact_weights`]), but
    not in Dice and focal Tversky.
    """

    nuclei_bce: float = 1.0
    nuclei_focal_tversky: float = 1.0
    nuclei_dice: float = 1.0
    hv_mse: float = 2.0
    hv_gradient: float = 2.0
    type_cross_entropy: float = 1.0
    type_dice: float = 0.5
    boundary_bce: float = 1.0
    boundary_dice: float = 1.0
    initial: float = 0.5
    contact: float = 0.0

    @classmethod
    def from_config(cls, overrides: dict[str, float] | None) -> "LossWeights":
        """The defaults with overrides by name.

        Raises:
            ValueError: an unknown name, or a negative weight.
        """
        overrides = overrides or {}
        known = [field.name for field in fields(cls)]
        unknown = sorted(set(overrides) - set(known))
        if unknown:
            raise ValueError(f"Unknown loss weights {unknown}; known are {known}.")
        negative = {name: value for name, value in overrides.items() if value < 0}
        if negative:
            raise ValueError(f"Loss weights must be 0 or more, got {negative}.")
        return cls(**overrides)


def _masked_mean(values: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Mean of `values` (B, ...) where `mask` (B, ...), or weighted by it, per image (B,); 0 for an empty mask."""
    mask = mask.to(values.dtype)
    return (values * mask).flatten(1).sum(1) / mask.flatten(1).sum(1).clamp_min(1)


def _soft_dice(probability: torch.Tensor, target: torch.Tensor, valid: torch.Tensor) -> torch.Tensor:
    """1 - Dice per map (B, ...), 0 where the map has no target pixel. All arguments (B, ..., H, W)."""
    valid = valid.to(probability.dtype)
    target = target.to(probability.dtype) * valid
    probability = probability * valid
    intersection, target_area = ((values * target).flatten(-2).sum(-1) for values in (probability, target))
    total = probability.flatten(-2).sum(-1) + target_area
    return (target_area > 0).to(probability.dtype) * (1 - 2 * intersection / total.clamp_min(1e-6))


def _focal_tversky(probability: torch.Tensor, target: torch.Tensor, valid: torch.Tensor) -> torch.Tensor:
    """Focal Tversky loss per image (B,), 0 where the image has no target pixel (Abraham & Khan 2019, as in CellViT).

    (1 - TI)^(4/3) with TI = TP / (TP + .7 FN + .3 FP).
    """
    valid = valid.to(probability.dtype)
    target = target.to(probability.dtype) * valid
    probability = probability * valid
    true_positive = (probability * target).flatten(1).sum(1)
    false_negative = ((1 - probability) * target).flatten(1).sum(1)
    false_positive = (probability * (valid - target)).flatten(1).sum(1)
    index = (true_positive + 1e-6) / (true_positive + 0.7 * false_negative + 0.3 * false_positive + 1e-6)
    present = (target.flatten(1).sum(1) > 0).to(probability.dtype)
    # The clamp keeps the derivative of the power finite at a perfect prediction.
    return present * (1 - index).clamp_min(1e-6) ** (4 / 3)


def _binary_terms(logits: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Probability, target and validity (B, H, W) of a one-channel map and its labels {0, 1, -100}."""
    return logits.sigmoid(), labels == 1, labels != IGNORE_INDEX


def contact_weights(nuclei_labels: torch.Tensor, boundary_labels: torch.Tensor, contact: float) -> torch.Tensor:
    """How much each pixel counts: up to 1 + `contact` along a contour between two nuclei, 1 elsewhere.

    These contours are recognised by the share of nuclei around them. So a gap of up to three pixels between two nuclei
    counts more too, the narrower the more, and so do deep notches of a single nucleus, since the labels do not
    distinguish nuclei. It has the purpose of U-Net's weight map (Ronneberger, Fischer and Brox 2015) and needs only
    these labels.

    Args:
        nuclei_labels, boundary_labels (`torch.Tensor` of shape `(B, H, W)`): 1, 0, or -100 for not annotated.
        contact (`float`): 0 or more.

    Returns:
        A float32 tensor of shape `(B, H, W)`.
    """
    nuclei = (nuclei_labels == 1).float()
    # Values at the border continue beyond it: a contour that runs along it faces tissue.
    around = F.pad(nuclei, (CONTACT_WINDOW // 2,) * 4, mode="replicate")
    share = F.avg_pool2d(around, CONTACT_WINDOW, stride=1)
    low, high = CONTACT_SHARES
    facing = ((share - low) / (high - low)).clamp(0, 1) * (boundary_labels == 1)
    # One pixel to either side of the contour as well.
    return 1 + contact * F.max_pool2d(facing, 3, stride=1, padding=1)


def settle_doubtful(
    nuclei_logits: torch.Tensor,
    nuclei_labels: torch.Tensor,
    type_labels: torch.Tensor | None,
    boundary_labels: torch.Tensor | None,
) -> tuple[torch.Tensor, torch.Tensor | None, torch.Tensor | None]:
    """Decides on pixels with the nuclei label `DOUBTFUL`: not annotated where the model is confident of a nucleus,
    background elsewhere.

    In an incomplete annotation, a nucleus without outline is labelled as background, and a model that finds it should
    not unlearn it. Leaving confident contradictions out of the loss is a truncated loss (Zhang and Sabuncu 2018). The
    price is that false positives of high probability, far from annotated nuclei, are not corrected by such images.

    Args:
        nuclei_logits (`torch.Tensor` of shape `(B, 1, H, W)`).
        nuclei_labels (`torch.Tensor` of shape `(B, H, W)`).
        type_labels, boundary_labels (`torch.Tensor` of shape `(B, H, W)`, *optional*).

    Returns:
        The three label maps without doubtful pixels. Images that have none are unchanged.
    """
    doubtful = nuclei_labels == DOUBTFUL
    ignored = doubtful & (nuclei_logits.detach()[:, 0].float().sigmoid() > CONFIDENT)
    nuclei_labels = nuclei_labels.masked_fill(doubtful, 0).masked_fill(ignored, IGNORE_INDEX)
    if type_labels is not None:
        type_labels = type_labels.masked_fill(ignored, IGNORE_INDEX)
    if boundary_labels is not None:
        boundary_labels = boundary_labels.masked_fill(ignored, IGNORE_INDEX)
    return nuclei_labels, type_labels, boundary_labels


def nuclei_losses(
    logits: torch.Tensor, labels: torch.Tensor, kind: str, counts: torch.Tensor | float = 1.0
) -> dict[str, torch.Tensor]:
    """Loss terms of the nuclei map, each (B,): BCE or focal Tversky, and Dice.

    Args:
        logits (`torch.Tensor` of shape `(B, 1, H, W)`).
        labels (`torch.Tensor` of shape `(B, H, W)`): 1 nucleus, 0 not, -100 not annotated.
        kind (`str`): `"bce"` or `"focal_tversky"`.
        counts (`torch.Tensor` of shape `(B, H, W)`, *optional*): how much each pixel counts in the BCE.
    """
    logits = logits[:, 0]
    probability, target, valid = _binary_terms(logits, labels)
    terms = {"nuclei_dice": _soft_dice(probability, target, valid)}
    if kind == "focal_tversky":
        terms["nuclei_focal_tversky"] = _focal_tversky(probability, target, valid)
    else:
        pixelwise = F.binary_cross_entropy_with_logits(logits, target.to(logits.dtype), reduction="none")
        terms["nuclei_bce"] = _masked_mean(pixelwise, valid * counts)
    return terms


def boundary_losses(
    logits: torch.Tensor, labels: torch.Tensor, counts: torch.Tensor | float = 1.0
) -> dict[str, torch.Tensor]:
    """Loss terms of the boundary map, each (B,): BCE and Dice. Arguments as in [`nuclei_losses`]."""
    logits = logits[:, 0]
    probability, target, valid = _binary_terms(logits, labels)
    pixelwise = F.binary_cross_entropy_with_logits(logits, target.to(logits.dtype), reduction="none")
    return {
        "boundary_bce": _masked_mean(pixelwise, valid * counts),
        "boundary_dice": _soft_dice(probability, target, valid),
    }


def hv_losses(hv_maps: torch.Tensor, hv_labels: torch.Tensor, inside: torch.Tensor) -> dict[str, torch.Tensor]:
    """Loss terms of the HV maps inside nuclei, each (B,): squared error of the maps and of their gradient.

    The gradient of the horizontal map is taken along x and that of the vertical map along y, as the difference over
    `HV_GRADIENT_SPAN` pixels: where two nuclei touch it jumps from +1 to -1, which is what separates them.

    Args:
        hv_maps, hv_labels (`torch.Tensor` of shape `(B, 2, H, W)`): horizontal first.
        inside (`torch.Tensor` of shape `(B, H, W)`): pixels of nuclei, or how much each counts, 0 outside nuclei.
    """
    error = hv_maps - hv_labels
    half = HV_GRADIENT_SPAN // 2
    # A difference of errors is the error of the differences.
    along_x = error[:, 0, :, 2 * half :] - error[:, 0, :, : -2 * half]
    along_y = error[:, 1, 2 * half :, :] - error[:, 1, : -2 * half, :]
    gradient = _masked_mean(along_x**2, inside[:, :, half:-half]) + _masked_mean(along_y**2, inside[:, half:-half, :])
    return {"hv_mse": _masked_mean(error.square().sum(1), inside), "hv_gradient": gradient}


def type_losses(
    logits: torch.Tensor, labels: torch.Tensor, class_weights: torch.Tensor | None
) -> dict[str, torch.Tensor]:
    """Loss terms of the type map, each (B,): cross-entropy, and Dice averaged over the types present in the image.

    Args:
        logits (`torch.Tensor` of shape `(B, T + 1, H, W)`).
        labels (`torch.Tensor` of shape `(B, H, W)`): 0 background, 1..T, -100 unknown.
        class_weights (`torch.Tensor` of shape `(T + 1,)`, *optional*).
    """
    valid = labels != IGNORE_INDEX
    pixelwise = F.cross_entropy(logits, labels, weight=class_weights, ignore_index=IGNORE_INDEX, reduction="none")
    targets = labels[:, None] == torch.arange(1, logits.shape[1], device=labels.device)[:, None, None]  # (B, T, H, W)
    dice = _soft_dice(logits.softmax(1)[:, 1:], targets, valid[:, None]).sum(1)
    present = targets.flatten(2).any(2).sum(1)
    return {"type_cross_entropy": _masked_mean(pixelwise, valid), "type_dice": dice / present.clamp_min(1)}


def map_losses(
    nuclei_logits: torch.Tensor,
    hv_maps: torch.Tensor,
    type_logits: torch.Tensor | None,
    nuclei_labels: torch.Tensor,
    hv_labels: torch.Tensor,
    type_labels: torch.Tensor | None,
    nuclei_loss: str,
    class_weights: torch.Tensor | None,
    counts: torch.Tensor | float = 1.0,
) -> dict[str, torch.Tensor]:
    """All terms, each (B,), of one set of maps: the initial or the refined one. Computed in float32."""
    terms = nuclei_losses(nuclei_logits.float(), nuclei_labels, nuclei_loss, counts)
    terms |= hv_losses(hv_maps.float(), hv_labels.float(), (nuclei_labels == 1) * counts)
    if type_logits is not None and type_labels is not None:
        terms |= type_losses(type_logits.float(), type_labels, class_weights)
    elif type_logits is not None:
        terms["type_cross_entropy"] = 0 * type_logits.float().flatten(1).sum(1)
    return terms


def weighted_sum(terms: dict[str, torch.Tensor], weights: LossWeights) -> torch.Tensor:
    """The weighted sum (B,) of terms (B,), at least one, named as in [`LossWeights`]."""
    total: torch.Tensor = sum(getattr(weights, name) * value for name, value in terms.items())
    return total


def nuclei_segmentation_loss(
    maps: tuple[torch.Tensor, torch.Tensor, torch.Tensor | None],
    initial_maps: tuple[torch.Tensor, torch.Tensor, torch.Tensor | None] | None,
    boundary_logits: torch.Tensor | None,
    nuclei_labels: torch.Tensor,
    hv_labels: torch.Tensor | None,
    type_labels: torch.Tensor | None,
    boundary_labels: torch.Tensor | None,
    weights: LossWeights,
    nuclei_loss: str,
    type_loss_weights: list[float] | None,
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """The training loss and its terms.

    Args:
        maps: nuclei logits (B, 1, H, W), HV maps (B, 2, H, W), type logits (B, T + 1, H, W) or `None`.
        initial_maps: the same before the refinement, or `None` without one.
        boundary_logits (`torch.Tensor` of shape `(B, 1, H, W)`, *optional*).
        nuclei_labels, hv_labels, type_labels, boundary_labels: as the model's `forward` takes them; the nuclei labels
            may also hold `DOUBTFUL` (see [`settle_doubtful`]).
        weights (`LossWeights`): of the terms.
        nuclei_loss (`str`): `"bce"` or `"focal_tversky"`.
        type_loss_weights (`list[float]`, *optional*): T + 1 weights of the classes, background first.

    Returns:
        Loss (a scalar) and its unweighted terms (scalars, detached), all averaged over the images; the terms of the
        initial maps begin with `initial_`.

    Raises:
        ValueError: `hv_labels` are missing, or `boundary_labels` although contacts have a weight.
    """
    if hv_labels is None:
        raise ValueError("nuclei_labels need hv_labels beside them.")
    nuclei_labels, type_labels, boundary_labels = settle_doubtful(maps[0], nuclei_labels, type_labels, boundary_labels)
    class_weights = None
    if type_loss_weights is not None:
        class_weights = torch.tensor(type_loss_weights, dtype=torch.float32, device=nuclei_labels.device)
    counts: torch.Tensor | float = 1.0
    if weights.contact:
        if boundary_labels is None:
            raise ValueError("The loss weight contact needs boundary_labels: contacts are found in them.")
        counts = contact_weights(nuclei_labels, boundary_labels, weights.contact)
    losses_of = partial(
        map_losses,
        nuclei_labels=nuclei_labels,
        hv_labels=hv_labels,
        type_labels=type_labels,
        nuclei_loss=nuclei_loss,
        class_weights=class_weights,
        counts=counts,
    )
    terms = losses_of(*maps)
    if boundary_logits is not None and boundary_labels is not None:
        terms |= boundary_losses(boundary_logits.float(), boundary_labels, counts)
    loss = weighted_sum(terms, weights)
    if initial_maps is not None:
        initial_terms = losses_of(*initial_maps)
        loss = loss + weights.initial * weighted_sum(initial_terms, weights)
        terms |= {f"initial_{name}": value for name, value in initial_terms.items()}
    return loss.mean(), {name: value.detach().mean() for name, value in terms.items()}


def types_inside_nuclei_loss(
    logits: torch.Tensor, labels: torch.Tensor, type_loss_weights: list[float] | None
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Cross-entropy of the types inside nuclei of known type.

    Args:
        logits (`torch.Tensor` of shape `(B, T, H, W)`).
        labels (`torch.Tensor` of shape `(B, H, W)`): 0 background, 1..T, -100 unknown.
        type_loss_weights (`list[float]`, *optional*): T + 1 weights of the classes; the background's is not used.

    Returns:
        Loss (a scalar) and its one term, averaged over the pixels of each image that count, then over the images.
    """
    weights = None
    if type_loss_weights is not None:
        weights = torch.tensor(type_loss_weights[1:], dtype=torch.float32, device=labels.device)
    counted = labels > 0
    types = torch.where(counted, labels - 1, IGNORE_INDEX)
    pixelwise = F.cross_entropy(logits.float(), types, weight=weights, ignore_index=IGNORE_INDEX, reduction="none")
    loss = _masked_mean(pixelwise, counted).mean()
    return loss, {"type_cross_entropy": loss.detach()}
