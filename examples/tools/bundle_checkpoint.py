"""Make a trained checkpoint one of those that the package ships.

    python examples/tools/bundle_checkpoint.py runs/cfsam-tiny-open/model cfsam-tiny-open

The weights are stored in float16, and the configuration states the facts in `model_cards/NAME/facts.yaml`: data,
licence, limits, training. Choose decoding and scores first (tune_decoding.py, calibrate_scores.py). The folder is
replaced as a whole, without its former card and scores. Evaluate what this script wrote, since a card's figures must
be those of the stored weights, and run write_card.py, which adds both.
"""

import argparse
from pathlib import Path
from typing import Any

import torch
import yaml

from cfsam_hf import CfSamForNucleiSegmentation, CfSamProcessor
from cfsam_hf.bases.bundled import or_bundled
from cfsam_hf.commands.messages import errors_in_one_line
from cfsam_hf.files.atomic import atomic_folder
from cfsam_hf.publish.export import stored_weights

ROOT = Path(__file__).resolve().parents[2]
CARDS, CHECKPOINTS = ROOT / "model_cards", ROOT / "cfsam_hf" / "checkpoints"


def read_facts(name: str) -> dict[str, Any]:
    """What a bundled checkpoint states about itself, beside its size and its scores.

    Raises:
        OSError: the checkpoint has no `facts.yaml`.
    """
    return {"name": name, **yaml.safe_load((CARDS / name / "facts.yaml").read_text(encoding="utf-8"))}


def round_to_half(model: CfSamForNucleiSegmentation) -> None:
    """Rounds the model's weights to values that float16 holds.

    Raises:
        ValueError: float16 cannot hold one of them; names it.
    """
    for name, value in model.state_dict().items():
        if value.is_floating_point():
            value.copy_(value.half())
            if not value.isfinite().all():
                raise ValueError(f"{name} has values that float16 cannot hold")


def bundle(source: str, name: str, folder: Path) -> CfSamForNucleiSegmentation:
    """Writes a bundled checkpoint and returns its model.

    Args:
        source: folder or Hub id of the trained checkpoint, or the name of a bundled one whose facts changed.
        name: the name to ship it under.
        folder: where it goes; replaced as a whole.

    Raises:
        OSError, ValueError: the source cannot be loaded, the facts are missing, or float16 cannot hold the weights.
    """
    facts = read_facts(name)
    source = or_bundled(source)
    model = CfSamForNucleiSegmentation.from_pretrained(source, dtype=torch.float32)
    processor = CfSamProcessor.from_pretrained(source)
    round_to_half(model)
    model.config.checkpoint_info = {**facts, "parameters": f"{model.num_parameters():,}"}
    with atomic_folder(folder) as stage:
        model.save_pretrained(stage, state_dict=stored_weights(model))
        processor.save_pretrained(stage)
        for weights in stage.glob("*.safetensors"):
            # safetensors makes files that only their owner can read.
            weights.chmod(0o644)
    return model


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", help="folder of the trained checkpoint, or a bundled one whose facts changed")
    parser.add_argument("name", help="name to ship it under, of a folder in model_cards/")
    options = parser.parse_args()
    folder = CHECKPOINTS / options.name
    model = bundle(options.checkpoint, options.name, folder)
    size = (folder / "model.safetensors").stat().st_size
    print(f"{folder}: {model.num_parameters():,} parameters, {size / 1e6:.1f} MB; now evaluate it, then write_card.py")


if __name__ == "__main__":
    with errors_in_one_line():
        main()
