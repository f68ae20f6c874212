"""The task decoder: SAM's two-way transformer with one learned token per output map instead of prompts and masks."""

from itertools import pairwise

import torch
from torch import nn
from transformers.models.sam.modeling_sam import SamFeedForward, SamMaskDecoder

from .layers import ConvBlock, DetailStem, UpsampleBlock


class MaskFeatures(nn.Module):
    """Up-samples the fused map to the mask stride, level by level, and adds detail from the image.

    It works like the decoder of a U-Net (Ronneberger, Fischer and Brox 2015) whose lowest level is the SAM encoder's
    and whose contracting path is a small convolutional stem on the image, which sees what patches of 16 pixels blur.

    Args:
        fusion_dim (`int`): width D of the fused map at the patch stride.
        upscaled_dim (`int`): channels of SAM's up-scaled embedding, at a quarter of the patch stride.
        dims (`list[int]`): channels at the mask stride, at twice that, ..., at half the patch stride.
        upscaled_level (`int`): the one of these levels at a quarter of the patch stride.
        num_finer (`int`): levels of the stem that are finer than the masks.
        use_stem (`bool`): whether there is a stem.
    """

    def __init__(
        self,
        fusion_dim: int,
        upscaled_dim: int,
        dims: list[int],
        upscaled_level: int,
        num_finer: int,
        use_stem: bool = True,
    ):
        super().__init__()
        self.upscaled_level, self.num_finer = upscaled_level, num_finer
        self.stem = DetailStem([dims[0]] * num_finer + dims) if use_stem else None
        self.up = nn.ModuleList([UpsampleBlock(below, dim) for dim, below in pairwise([*dims, fusion_dim])])
        joined = 2 if use_stem else 1
        self.join = nn.ModuleList([nn.Sequential(ConvBlock(joined * dim, dim), ConvBlock(dim, dim)) for dim in dims])
        self.upscaled_projection = nn.Conv2d(upscaled_dim, dims[upscaled_level], 1)

    def forward(self, fused: torch.Tensor, upscaled: torch.Tensor, pixel_values: torch.Tensor) -> torch.Tensor:
        """Fused map (B, D, h, w), up-scaled embedding (B, U, 4h, 4w), pixels (B, 3, H, W) to (B, F, H / s, W / s)."""
        details = self.stem(pixel_values)[self.num_finer :] if self.stem is not None else None
        features = fused
        for level in reversed(range(len(self.up))):
            features = self.up[level](features)
            if level == self.upscaled_level:
                features = features + self.upscaled_projection(upscaled)
            if details is not None:
                features = torch.cat([features, details[level]], dim=1)
            features = self.join[level](features)
        return features


class TaskMaskDecoder(nn.Module):
    """Task tokens, and hyper-networks that turn each token into the filter of its map.

    The two-way transformer and the up-scaling belong to SAM and are passed in at run time, so that their weights keep
    SAM's names.

    Args:
        num_maps (`int`): number of output maps, one token each.
        hidden_size (`int`): width of SAM's mask decoder.
        mask_dim (`int`): channels F of the features that the filters read.
    """

    def __init__(self, num_maps: int, hidden_size: int, mask_dim: int):
        super().__init__()
        self.mask_dim = mask_dim
        self.task_tokens = nn.Embedding(num_maps, hidden_size)
        self.filters = nn.ModuleList(
            [SamFeedForward(hidden_size, hidden_size, mask_dim + 1, num_layers=3) for _ in range(num_maps)]
        )

    def attend(
        self, sam_decoder: SamMaskDecoder, embedding: torch.Tensor, position: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Lets tokens and image embedding attend to each other, then up-scales the embedding like SAM.

        Args:
            sam_decoder (`SamMaskDecoder`).
            embedding (`torch.Tensor` of shape `(B, E, h, w)`): image embedding with SAM's "no mask" prompt added.
            position (`torch.Tensor` of shape `(1, E, h, w)`): SAM's dense positional encoding.

        Returns:
            Tokens (B, number of maps, E) and the up-scaled embedding (B, E / 8, 4h, 4w).
        """
        batch, channels, height, width = embedding.shape
        # Looked up, and not read off the weight, so that the hooks of offloaded modules run.
        tokens = self.task_tokens(torch.arange(self.task_tokens.num_embeddings, device=embedding.device))
        tokens = tokens.to(embedding.device).expand(batch, 1, -1, -1)
        tokens, embedding = sam_decoder.transformer(
            point_embeddings=tokens,
            image_embeddings=embedding,
            image_positional_embeddings=position,
            attention_similarity=None,
        )
        embedding = embedding.transpose(2, 3).reshape(batch, channels, height, width)
        upscaled = sam_decoder.upscale_conv1(embedding)
        upscaled = sam_decoder.activation(sam_decoder.upscale_layer_norm(upscaled))
        upscaled = sam_decoder.activation(sam_decoder.upscale_conv2(upscaled))
        return tokens.squeeze(1), upscaled

    def read_maps(self, tokens: torch.Tensor, features: torch.Tensor) -> torch.Tensor:
        """Computes the initial maps (B, M, H / s, W / s) from tokens (B, M, E) and features (B, F, H / s, W / s)."""
        filters = torch.stack([network(tokens[:, i]) for i, network in enumerate(self.filters)], dim=1).to(
            features.device
        )  # (B, M, F + 1)
        weights, bias = filters[..., :-1] * self.mask_dim**-0.5, filters[..., -1:]
        maps = weights @ features.flatten(2) + bias
        return maps.unflatten(2, features.shape[2:])
