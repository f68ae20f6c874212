"""HMFM, the Hierarchical Modulated Fusion Module (arXiv 2603.28027; the numbers are this project's choice)."""

from typing import cast

import torch
from torch import nn
from transformers.models.sam.modeling_sam import SamLayerNorm

from .layers import ZeroConv2d


class HierarchicalModulatedFusion(nn.Module):
    """Aggregates several encoder levels into one map, with weights that depend on position and image.

    Every level is projected to D channels and modulated at each position with a scale and a shift computed from the
    neck's embedding (FiLM, which starts as the identity). Softmax weights over the levels, one set per position, mix
    them.

    Args:
        hidden_size (`int`): width C of the encoder.
        num_levels (`int`): number of levels.
        embedding_dim (`int`): channels of the neck's embedding.
        fusion_dim (`int`): width D.
    """

    def __init__(self, hidden_size: int, num_levels: int, embedding_dim: int, fusion_dim: int):
        super().__init__()
        self.level_projections = nn.ModuleList([nn.Conv2d(hidden_size, fusion_dim, 1) for _ in range(num_levels)])
        self.level_norms = nn.ModuleList(
            [SamLayerNorm(fusion_dim, data_format="channels_first") for _ in range(num_levels)]
        )
        self.modulations = nn.ModuleList([ZeroConv2d(embedding_dim, 2 * fusion_dim, 1) for _ in range(num_levels)])
        self.level_scores = nn.ModuleList([nn.Conv2d(fusion_dim, 1, 1) for _ in range(num_levels)])

    def modulated_levels(self, levels: list[torch.Tensor], embedding: torch.Tensor) -> list[torch.Tensor]:
        """Projects and modulates each level (B, h, w, C) to (B, D, h, w)."""
        modulated = []
        for level, project, norm, modulate in zip(
            levels, self.level_projections, self.level_norms, self.modulations, strict=True
        ):
            scale, shift = modulate(embedding).chunk(2, dim=1)
            modulated.append(norm(project(level.permute(0, 3, 1, 2))) * (1 + scale) + shift)
        return modulated

    def forward(self, levels: list[torch.Tensor], embedding: torch.Tensor) -> torch.Tensor:
        """Fuses levels (B, h, w, C) and embedding (B, E, h, w) into one map (B, D, h, w)."""
        modulated = self.modulated_levels(levels, embedding)
        scores = torch.cat([score(level) for score, level in zip(self.level_scores, modulated, strict=True)], dim=1)
        weights = scores.softmax(dim=1)  # (B, levels, h, w)
        return cast(torch.Tensor, sum(weights[:, i : i + 1] * level for i, level in enumerate(modulated)))
