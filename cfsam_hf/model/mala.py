"""MALA, the Multi-scale Adaptive Local-aware Adapter (arXiv 2603.28027; the numbers are this project's choice).

A bottleneck whose middle is a depthwise convolution with kernels of several sizes, made for each image, or for each
window of it, from its own content. It runs beside the frozen MLP of a SAM encoder layer and starts as exactly zero.

Functions of leaf layers and parameters do the computation ([`mala`], [`scales_and_gates`], [`fuse_kernels`]):
[`MultiScaleAdapter`] keeps its leaves in a module tree, the PEFT method of `peft_tuner.py` in PEFT's flat layout.
"""

from collections.abc import Callable, Sequence
from typing import cast

import torch
import torch.nn.functional as F
from torch import nn
from transformers import initialization as init


class AdapterLinear(nn.Linear):
    """A linear layer of an adapter. The model recognises the class and initialises it with `reset`."""

    def __init__(self, in_features: int, out_features: int, zero: bool = False, gain: float = 1.0):
        self.zero = zero
        self.gain = gain
        super().__init__(in_features, out_features)

    @torch.no_grad()
    def reset(self) -> None:
        """Weights N(0, gain^2 / fan_in) or zero, bias zero; loaded tensors stay unchanged."""
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
            # A tenth of the base kernel's scale, so that the image modifies the kernels without dominating them.
            self.generators = nn.ModuleList(
                [AdapterLinear(context_dim, channels * k * k, gain=0.1 / k) for k in self.kernel_sizes]
            )
            self.gate = AdapterLinear(context_dim, len(self.kernel_sizes) * channels, zero=True)
        else:
            self.gate_logits = nn.Parameter(torch.zeros(len(self.kernel_sizes), channels))

    @torch.no_grad()
    def reset(self) -> None:
        """Base kernels N(0, 1 / k^2), equal gates; loaded tensors stay unchanged."""
        for kernel, size in zip(self.base_kernels(), self.kernel_sizes, strict=True):
            init.normal_(kernel, std=1.0 / size)
        if not self.dynamic:
            init.zeros_(self.gate_logits)

    def base_kernels(self) -> list[nn.Parameter]:
        """The image-independent kernels K0, one (r, k, k) per size."""
        return [getattr(self, f"base_{size}") for size in self.kernel_sizes]

    def scales_and_gates(self, context: torch.Tensor) -> tuple[list[torch.Tensor], torch.Tensor]:
        """Kernels per size, each (B, r, k, k), and gates (B, number of sizes, r) that sum to 1 over the sizes."""
        if self.dynamic:
            return scales_and_gates(context, self.base_kernels(), self.gate, list(self.generators))
        return scales_and_gates(context, self.base_kernels(), self.gate_logits)

    def forward(self, context: torch.Tensor) -> torch.Tensor:
        """Maps the context (B, q) to the fused kernel (B, r, K, K), K the largest size."""
        return fuse_kernels(*self.scales_and_gates(context))


def scales_and_gates(
    context: torch.Tensor,
    base_kernels: Sequence[torch.Tensor],
    gate: Callable[[torch.Tensor], torch.Tensor] | torch.Tensor,
    generators: Sequence[Callable[[torch.Tensor], torch.Tensor]] = (),
) -> tuple[list[torch.Tensor], torch.Tensor]:
    """The kernels of all sizes for every image, and their gates.

    Args:
        context (`torch.Tensor` of shape `(B, q)`).
        base_kernels: K0, one (r, k, k) per size.
        gate: A, (B, q) to (B, sizes * r); or fixed logits (sizes, r).
        generators: G, one per size, (B, q) to (B, r * k * k); none for kernels that do not depend on the image.

    Returns:
        Kernels per size, each (B, r, k, k), and gates (B, sizes, r) that sum to 1 over the sizes.
    """
    batch, sizes = context.shape[0], len(base_kernels)
    if isinstance(gate, torch.Tensor):
        return [kernel.expand(batch, -1, -1, -1) for kernel in base_kernels], gate.softmax(dim=0).expand(batch, -1, -1)
    kernels = [
        kernel + generate(context).view(batch, *kernel.shape)
        for kernel, generate in zip(base_kernels, generators, strict=True)
    ]
    return kernels, gate(context).view(batch, sizes, -1).softmax(dim=1)


def fuse_kernels(kernels: Sequence[torch.Tensor], gates: torch.Tensor) -> torch.Tensor:
    """Fuses kernels per size (B, r, k, k) with gates (B, sizes, r) into one (B, r, K, K), K the largest size."""
    largest = max(kernel.shape[-1] for kernel in kernels)
    margins = [(largest - kernel.shape[-1]) // 2 for kernel in kernels]
    padded = (
        F.pad(gates[:, i, :, None, None] * kernel, (margin,) * 4)
        for i, (kernel, margin) in enumerate(zip(kernels, margins, strict=True))
    )
    return cast(torch.Tensor, sum(padded))


def per_image_depthwise_conv(features: torch.Tensor, kernels: torch.Tensor) -> torch.Tensor:
    """Convolves every channel of every image with its own kernel, zero-padded to the same size.

    Args:
        features (`torch.Tensor` of shape `(B, r, h, w)`).
        kernels (`torch.Tensor` of shape `(B, r, K, K)`, K odd).
    """
    batch, channels, height, width = features.shape
    size = kernels.shape[-1]
    if torch.jit.is_tracing():
        return _convolve_by_taps(features, kernels[:, None, None], (height, width))
    output = F.conv2d(
        features.reshape(1, batch * channels, height, width),
        kernels.reshape(batch * channels, 1, size, size),
        padding=size // 2,
        groups=batch * channels,
    )
    return output.view(batch, channels, height, width)


def per_window_depthwise_conv(features: torch.Tensor, kernels: torch.Tensor, window: int) -> torch.Tensor:
    """Convolves every channel of every window with its own kernel; values beyond a window's edge take part.

    Args:
        features (`torch.Tensor` of shape `(B, r, h, w)`).
        kernels (`torch.Tensor` of shape `(B, rows, columns, r, K, K)`, K odd): one set per window, of which there are
            h / `window` x w / `window`, rounded up.
        window (`int`): side of the square windows.
    """
    batch, rows, columns, channels, size, _ = kernels.shape
    height, width = features.shape[2:]
    if torch.jit.is_tracing():
        return _convolve_by_taps(features, kernels, (window, window))
    margin, side = size // 2, window + size - 1
    padded = F.pad(features, (margin, margin + columns * window - width, margin, margin + rows * window - height))
    windows = padded.unfold(2, side, window).unfold(3, side, window)  # (B, r, rows, columns, side, side)
    groups = batch * rows * columns * channels
    output = F.conv2d(
        windows.permute(0, 2, 3, 1, 4, 5).reshape(1, groups, side, side),
        kernels.reshape(groups, 1, size, size),
        groups=groups,
    )
    output = output.view(batch, rows, columns, channels, window, window).permute(0, 3, 1, 4, 2, 5)
    return output.reshape(batch, channels, rows * window, columns * window)[..., :height, :width]


def _convolve_by_taps(features: torch.Tensor, kernels: torch.Tensor, window: tuple[int, int]) -> torch.Tensor:
    """The same convolution as a sum over the taps of the kernels, for graphs (ONNX): there a convolution has a fixed
    number of groups, and cannot follow the batch and the size of the image.

    Args:
        features (`torch.Tensor` of shape `(B, r, h, w)`).
        kernels (`torch.Tensor` of shape `(B, rows, columns, r, K, K)`, K odd): one set per window.
        window: height and width of the windows.
    """
    batch, rows, columns, channels, size, _ = kernels.shape
    height, width = features.shape[2:]
    margin, whole_height, whole_width = size // 2, rows * window[0], columns * window[1]
    padded = F.pad(features, (margin, margin + whole_width - width, margin, margin + whole_height - height))
    kernels = kernels.permute(0, 3, 1, 2, 4, 5)[:, :, :, None, :, None]  # (B, r, rows, 1, columns, 1, K, K)
    taps = (
        padded[:, :, dy : dy + whole_height, dx : dx + whole_width].reshape(
            batch, channels, rows, window[0], columns, window[1]
        )
        * kernels[..., dy, dx]
        for dy in range(size)
        for dx in range(size)
    )
    output = cast(torch.Tensor, sum(taps)).reshape(batch, channels, whole_height, whole_width)
    return output[..., :height, :width]


def mala(
    hidden_states: torch.Tensor,
    scale: torch.Tensor,
    down: Callable[[torch.Tensor], torch.Tensor],
    context: Callable[[torch.Tensor], torch.Tensor] | None,
    kernel: Callable[[torch.Tensor], torch.Tensor],
    up: Callable[[torch.Tensor], torch.Tensor],
    window: int | None = None,
) -> torch.Tensor:
    """The adapter: `s * W_up GELU(Z + L)` with `Z = GELU(W_down X)` and L the convolution of Z with kernels made for
    the image, or for each window of it.

    Args:
        hidden_states (`torch.Tensor` of shape `(B, h, w, C)`): X.
        scale (`torch.Tensor` of shape `(1,)`): s.
        down, up: W_down, C to r channels, and W_up, r to C.
        context: W_c, r to q channels; `None` passes on the mean token (B, r), for kernels that ignore it.
        kernel: context (B, q) to one kernel per image and channel (B, r, K, K).
        window: side in tokens of the windows that each have a context and kernels; `None` for one per image.

    Returns:
        The correction of X, same shape.
    """
    features = F.gelu(down(hidden_states))  # (B, h, w, r)
    if window is None:
        pooled = features.mean(dim=(1, 2))  # (B, r)
        kernels = kernel(pooled if context is None else F.gelu(context(pooled)))
        features = features.permute(0, 3, 1, 2)  # (B, r, h, w)
        local = per_image_depthwise_conv(features, kernels.to(features.dtype))
    else:
        features = features.permute(0, 3, 1, 2)
        # Windows at the edge are averaged over the tokens that they have.
        means = F.avg_pool2d(features, window, ceil_mode=True, count_include_pad=False).permute(0, 2, 3, 1)
        pooled = means.flatten(0, 2)  # (B * rows * columns, r)
        kernels = kernel(pooled if context is None else F.gelu(context(pooled)))
        # The lengths one by one, since a trace loses those of a slice of a shape.
        kernels = kernels.view(means.shape[0], means.shape[1], means.shape[2], *kernels.shape[1:])
        local = per_window_depthwise_conv(features, kernels.to(features.dtype), window)
    return scale * up(F.gelu(features + local).permute(0, 2, 3, 1))


class MultiScaleAdapter(nn.Module):
    """MALA as a module; [`mala`] describes the computation.

    `W_up` starts at zero, so the adapted layer starts out equal to the original one.

    Args:
        hidden_size (`int`): width C of the encoder.
        adapter_dim (`int`): bottleneck width r.
        context_dim (`int`): context width q.
        kernel_sizes (`list[int]`): odd kernel sizes.
        dynamic (`bool`): kernels and gates made from the image, or fixed ones.
        window (`int`, *optional*): side in tokens of the windows for which they are made. Default: the image.
    """

    def __init__(
        self,
        hidden_size: int,
        adapter_dim: int,
        context_dim: int,
        kernel_sizes: list[int],
        dynamic: bool,
        window: int | None = None,
    ):
        super().__init__()
        self.window = window if dynamic else None
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
        """Maps tokens (B, h, w, C) to their correction, same shape."""
        return mala(hidden_states, self.scale, self.down, self.context, self.kernel, self.up, self.window)
