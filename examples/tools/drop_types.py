"""Remove the types from a checkpoint, and SAM's parts for prompts: the result is a base for a type branch.

    python examples/tools/drop_types.py runs/cfsam-tiny-stage4/model runs/cfsam-tiny-untyped

The maps of the types are removed from the mask decoder and from BGMR, which used them together with the others, so
train the result for some steps. Of SAM's masks for prompts, which CF-SAM never makes, one token and hyper-network
remain, the fewest that SAM can have.
"""

import argparse
from pathlib import Path

import torch

from cfsam_hf import CfSamConfig, CfSamForNucleiSegmentation, CfSamProcessor
from cfsam_hf.commands.messages import errors_in_one_line
from cfsam_hf.training import retype
from cfsam_hf.training.models import checkpoint_of


def without_types(checkpoint: str) -> CfSamForNucleiSegmentation:
    """Loads the model of a checkpoint without types and prompts.

    Args:
        checkpoint: folder or Hub id of a CF-SAM checkpoint.

    Raises:
        OSError, ValueError: the checkpoint cannot be loaded.
    """
    model = CfSamForNucleiSegmentation.from_pretrained(checkpoint, dtype=torch.float32)
    if model.config.num_types:
        # The facts of the base describe the model with types.
        model = retype(model, CfSamConfig.from_pretrained(checkpoint, num_types=0, checkpoint_info=None))
    config = CfSamConfig.from_dict(model.config.to_dict())
    config.mask_decoder_config.num_multimask_outputs = 0
    lighter = CfSamForNucleiSegmentation(config)
    weights = model.state_dict()
    # Tokens and outputs of the masks that remain come first.
    lighter.load_state_dict({name: weights[name][: len(value)] for name, value in lighter.state_dict().items()})
    return lighter


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", help="cfsam-tiny, or the folder or Hub id of a CF-SAM checkpoint")
    parser.add_argument("output", type=Path, help="folder to write")
    options = parser.parse_args()
    checkpoint = checkpoint_of(options.checkpoint) or options.checkpoint
    model = without_types(checkpoint)
    model.save_pretrained(options.output)
    CfSamProcessor.from_pretrained(checkpoint).save_pretrained(options.output)
    print(f"{options.output}: {model.num_parameters():,} parameters, no types")


if __name__ == "__main__":
    with errors_in_one_line():
        main()
