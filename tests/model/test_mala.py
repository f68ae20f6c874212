"""Why: MALA's fused per-image kernel must equal the literal sum of convolutions, and the adapter start at zero."""

import pytest
import torch
import torch.nn.functional as F

from cfsam_hf.model.mala import MultiScaleAdapter, MultiScaleKernel, per_image_depthwise_conv


def make_kernel(sizes: list[int], dynamic: bool) -> MultiScaleKernel:
    torch.manual_seed(0)
    kernel = MultiScaleKernel(channels=5, context_dim=4, kernel_sizes=sizes, dynamic=dynamic).double()
    with torch.no_grad():
        for parameter in kernel.parameters():
            parameter.normal_()
    return kernel


def literal_local_features(kernel: MultiScaleKernel, context: torch.Tensor, features: torch.Tensor) -> torch.Tensor:
    """`sum_k a_k * (K_k conv Z)`: one convolution per image, channel and size."""
    kernels, gates = kernel.scales_and_gates(context)
    result = torch.zeros_like(features)
    for image in range(features.shape[0]):
        for channel in range(features.shape[1]):
            for i, of_size in enumerate(kernels):
                one = of_size[image, channel][None, None]
                convolved = F.conv2d(features[image, channel][None, None], one, padding=one.shape[-1] // 2)[0, 0]
                result[image, channel] += gates[image, i, channel] * convolved
    return result


@pytest.mark.parametrize("dynamic", [True, False])
@pytest.mark.parametrize("sizes", [[3, 5, 7], [5], [7, 3]])
def test_fused_kernel_equals_the_literal_sum_and_its_gradients(sizes, dynamic):
    kernel = make_kernel(sizes, dynamic)
    context = torch.randn(3, 4, dtype=torch.float64, requires_grad=True)
    features = torch.randn(3, 5, 9, 6, dtype=torch.float64, requires_grad=True)
    weights = torch.randn(3, 5, 9, 6, dtype=torch.float64)
    wanted = [context, features, *kernel.parameters()]

    fused = per_image_depthwise_conv(features, kernel(context))
    literal = literal_local_features(kernel, context, features)
    assert (fused - literal).abs().max() < 1e-12
    fused_gradients = torch.autograd.grad((fused * weights).sum(), wanted, allow_unused=True)
    literal_gradients = torch.autograd.grad((literal * weights).sum(), wanted, allow_unused=True)
    for a, b in zip(fused_gradients, literal_gradients, strict=True):
        assert (a is None) == (b is None)
        # A single size has one gate, which is 1: its logit has no gradient to compare.
        assert a is None or (a - b).abs().max() < 1e-12 * max(1, b.abs().max())


def test_kernels_follow_the_image_when_dynamic_and_not_when_fixed():
    context = torch.randn(2, 4, dtype=torch.float64)
    dynamic, fixed = make_kernel([3, 5], True)(context), make_kernel([3, 5], False)(context)
    assert not torch.allclose(dynamic[0], dynamic[1])
    assert torch.equal(fixed[0], fixed[1])


def test_gates_sum_to_one():
    _, gates = make_kernel([3, 5, 7], True).scales_and_gates(torch.randn(2, 4, dtype=torch.float64))
    assert torch.allclose(gates.sum(1), torch.ones_like(gates[:, 0]))


def test_fixed_kernels_and_one_scale_have_fewer_parameters():
    def count(**options) -> int:
        settings = {"adapter_dim": 8, "context_dim": 4, "kernel_sizes": [3, 5, 7], "dynamic": True} | options
        return sum(p.numel() for p in MultiScaleAdapter(32, **settings).parameters())

    full = count()
    # r (k^2) (q + 1) of the generators, (q + 1) 3 r of the gate against 3 r fixed gates, and the context layer.
    assert full - count(dynamic=False) == 8 * (9 + 25 + 49) * 5 + 5 * 3 * 8 - 3 * 8 + 8 * 4 + 4
    assert count(kernel_sizes=[3]) < full


def test_adapter_is_exactly_zero_at_the_start():
    torch.manual_seed(0)
    adapter = MultiScaleAdapter(32, adapter_dim=8, context_dim=4, kernel_sizes=[3, 5, 7], dynamic=True)
    for module in adapter.modules():
        if hasattr(module, "reset"):
            module.reset()
    hidden_states = torch.randn(2, 5, 7, 32)
    assert adapter.down.weight.any()
    assert adapter.kernel.base_7.any()
    assert not adapter(hidden_states).any()
