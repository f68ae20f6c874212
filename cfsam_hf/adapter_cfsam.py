"""MALA, the Multi-scale Adaptive Local-aware Adapter (arXiv 2603.28027; the numbers are this project's choice).

A bottleneck whose middle is a depthwise convolution with kernels of several sizes, made for each image from its own
content. It runs beside the frozen MLP of a SAM encoder layer and starts as exactly zero.
"""

import torch
import torch.nn.functional as F
from torch import nn
from transformers import initialization as init


class AdapterLinear(nn.Linear):
    """A linear layer of an adapter. The class is the mark by which it gets its own initialisation (see `reset`)."""

    def __init__(self, in_features: int, out_features: int, zero: bool = False, gain: float = 1.0):
        self.zero = zero
        self.gain = gain
        super().__init__(in_features, out_features)

    @torch.no_grad()
    def reset(self) -> None:
        """Weights N(0, gain^2 / fan_in) or zero, bias zero; tensors that were loaded are left alone."""
        if self.zero:
            init.zeros_(self.weight)
        else:
            init.normal_(self.weight, std=self.gain * self.in_features**-0.5)
        init.zeros_(self.bias)


class MultiScaleKernel(nn.Module):
    """Makes one fused depthwise kernel per image and channel out of several sizes.

    With the context c (B, q) of an image: `K_k = K0_k + reshape(G_k c)` for each size k, gates `a = softmax_k(A c)`
    per channel, and the result `sum_k a_k * pad(K_k)`. Convolution is linear, so convolving with it equals the gated
    sum of the convolutions. With `dynamic=False`, K0 and the gates do not depend on the image; there is no G, no A.

    Args:
        channels (`int`): number of channels r.
        context_dim (`int`): width q of the context.
        kernel_sizes (`list[int]`): odd sizes.
        dynamic (`bool`): whether kernels and gates depend on the image.
    """

    def __init__(self, channels: int, context_dim: int, kernel_sizes: list[int], dynamic: bool):
        super().__init__()
        self.channels = channels
        self.kernel_sizes = list(kernel_sizes)
        self.dynamic = dynamic
        # Direct parameters, not a ParameterList: transformers skips the initialisation of a module that has none.
        for size in self.kernel_sizes:
            self.register_parameter(f"base_{size}", nn.Parameter(torch.zeros(channels, size, size)))
        if dynamic:
            # A tenth of the base kernel's scale: the image bends the kernels, it does not drown them.
            self.generators = nn.ModuleList(
                [AdapterLinear(context_dim, channels * k * k, gain=0.1 / k) for k in self.kernel_sizes]
            )
            self.gate = AdapterLinear(context_dim, len(self.kernel_sizes) * channels, zero=True)
        else:
            self.gate_logits = nn.Parameter(torch.zeros(len(self.kernel_sizes), channels))

    @torch.no_grad()
    def reset(self) -> None:
        """Base kernels N(0, 1 / k^2), equal gates; tensors that were loaded are left alone."""
        for kernel, size in zip(self.base_kernels(), self.kernel_sizes, strict=True):
            init.normal_(kernel, std=1.0 / size)
        if not self.dynamic:
            init.zeros_(self.gate_logits)

    def base_kernels(self) -> list[nn.Parameter]:
        """The image-independent kernels K0, one (r, k, k) per size."""
        return [getattr(self, f"base_{size}") for size in self.kernel_sizes]

    def scales_and_gates(self, context: torch.Tensor) -> tuple[list[torch.Tensor], torch.Tensor]:
        """Kernels per size, each (B, r, k, k), and gates (B, number of sizes, r) that sum to 1 over the sizes."""
        batch = context.shape[0]
        if not self.dynamic:
            kernels = [kernel.expand(batch, -1, -1, -1) for kernel in self.base_kernels()]
            return kernels, self.gate_logits.softmax(dim=0).expand(batch, -1, -1)
        kernels = [
            kernel + generate(context).view(batch, self.channels, size, size)
            for kernel, generate, size in zip(self.base_kernels(), self.generators, self.kernel_sizes, strict=True)
        ]
        return kernels, self.gate(context).view(batch, len(self.kernel_sizes), self.channels).softmax(dim=1)

    def forward(self, context: torch.Tensor) -> torch.Tensor:
        """Context (B, q) to the fused kernel (B, r, K, K), K the largest size."""
        kernels, gates = self.scales_and_gates(context)
        largest = max(self.kernel_sizes)
        fused = 0
        for i, kernel in enumerate(kernels):
            margin = (largest - kernel.shape[-1]) // 2
            fused = fused + F.pad(gates[:, i, :, None, None] * kernel, (margin,) * 4)
        return fused


def per_image_depthwise_conv(features: torch.Tensor, kernels: torch.Tensor) -> torch.Tensor:
    """Convolves every channel of every image with its own kernel, zero-padded to the same size.

    Args:
        features (`torch.Tensor` of shape `(B, r, h, w)`).
        kernels (`torch.Tensor` of shape `(B, r, K, K)`, K odd).
    """
    batch, channels, height, width = features.shape
    size = kernels.shape[-1]
    output = F.conv2d(
        features.reshape(1, batch * channels, height, width),
        kernels.reshape(batch * channels, 1, size, size),
        padding=size // 2,
        groups=batch * channels,
    )
    return output.view(batch, channels, height, width)


class MultiScaleAdapter(nn.Module):
    """MALA: `s * W_up GELU(Z + L)` with `Z = GELU(W_down X)` and L the multi-scale, per-image convolution of Z.

    `W_up` starts at zero, so the adapted layer starts as the layer it adapts.

    Args:
        hidden_size (`int`): width C of the encoder.
        adapter_dim (`int`): bottleneck width r.
        context_dim (`int`): context width q.
        kernel_sizes (`list[int]`): odd kernel sizes.
        dynamic (`bool`): kernels and gates per image, or fixed ones.
    """

    def __init__(self, hidden_size: int, adapter_dim: int, context_dim: int, kernel_sizes: list[int], dynamic: bool):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))
        self.down = AdapterLinear(hidden_size, adapter_dim)
        self.context = AdapterLinear(adapter_dim, context_dim) if dynamic else None
        self.kernel = MultiScaleKernel(adapter_dim, context_dim, kernel_sizes, dynamic)
        self.up = AdapterLinear(adapter_dim, hidden_size, zero=True)

    @torch.no_grad()
    def reset(self) -> None:
        """The scale s starts at 1; the parts reset themselves."""
        init.ones_(self.scale)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """Token map (B, h, w, C) to its correction, same shape."""
        features = F.gelu(self.down(hidden_states))  # (B, h, w, r)
        pooled = features.mean(dim=(1, 2))  # (B, r)
        context = F.gelu(self.context(pooled)) if self.context is not None else pooled
        features = features.permute(0, 3, 1, 2)  # (B, r, h, w)
        local = per_image_depthwise_conv(features, self.kernel(context).to(features.dtype))
        mixed = F.gelu(features + local).permute(0, 2, 3, 1)
        return self.scale * self.up(mixed)
