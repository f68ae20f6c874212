"""How much maps differ from target maps, for losses whose targets are not labels. All are 0 for equal maps."""

import torch
import torch.nn.functional as F


def binary_divergence(logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """The Kullback-Leibler divergence of one-channel maps from target probabilities, in nats, averaged over pixels.

    Args:
        logits, target: (B, 1, H, W); targets are constants in [0, 1].
    """
    # F.binary_cross_entropy does not work under autocast.
    entropy = (torch.special.entr(target) + torch.special.entr(1 - target)).mean()
    return F.binary_cross_entropy_with_logits(logits, target) - entropy


def type_divergence(logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """The Kullback-Leibler divergence of type maps from target probabilities, in nats, averaged over pixels.

    Args:
        logits, target: (B, T + 1, H, W); targets are constants that add up to 1.
    """
    return (target * (target.clamp_min(1e-12).log() - logits.log_softmax(1))).sum(1).mean()


def offset_difference(maps: torch.Tensor, target: torch.Tensor, inside: torch.Tensor) -> torch.Tensor:
    """The squared distance of horizontal and vertical maps from their targets inside nuclei, averaged per image.

    Args:
        maps, target: (B, 2, H, W).
        inside: (B, 1, H, W), probabilities of nuclei, by which pixels are weighted.
    """
    squares = (maps - target).square().sum(1, keepdim=True)
    return ((squares * inside).sum((1, 2, 3)) / inside.sum((1, 2, 3)).clamp_min(1)).mean()
