"""MALA and LoRA through stock PEFT, on a plain SAM and inside CF-SAM.

    pip install -c constraints.txt ".[peft]"
    python examples/peft_adapters.py                                   # a small SAM with random weights, seconds
    python examples/peft_adapters.py --sam facebook/sam-vit-base --steps 50

1. MALA on a `SamModel`: trained with point prompts on painted discs, saved, loaded, and removed again.
2. The same weights inside a CF-SAM.
3. LoRA on the attention of CF-SAM's frozen encoder, beside its MALA.

Discs are not nuclei: this shows the calls, not a result.
"""

import argparse
import tempfile
from pathlib import Path

import torch
import torch.nn.functional as F
from peft import LoraConfig, PeftModel, get_peft_model, get_peft_model_state_dict
from transformers import SamConfig, SamModel

from cfsam_hf import CfSamForNucleiSegmentation
from cfsam_hf.commands.messages import errors_in_one_line
from cfsam_hf.model.checkpoint import check_place, naming_checkpoint
from cfsam_hf.peft_tuner import MalaConfig, from_peft_state_dict
from cfsam_hf.training import tiny_config
from cfsam_hf.training.variants import ENCODER_ATTENTION


def save_random_sam(folder: Path) -> None:
    """Writes a SamModel of cfsam-tiny's size with random weights."""
    config = tiny_config()
    parts = ("vision_config", "prompt_encoder_config", "mask_decoder_config")
    SamModel(SamConfig(**{name: getattr(config, name).to_dict() for name in parts})).save_pretrained(folder)


def painted_discs(batch: int, size: int, mask_size: int, generator: torch.Generator) -> dict[str, torch.Tensor]:
    """Noisy pictures (B, 3, size, size) with a bright disc each, a point in it, its mask (B, mask_size, mask_size)."""
    radius = size / 8
    centre = radius + torch.rand(batch, 2, generator=generator) * (size - 2 * radius)  # x, y

    def discs(side: int) -> torch.Tensor:
        at = (torch.arange(side) + 0.5) * size / side
        x, y = at[None, None, :] - centre[:, 0, None, None], at[None, :, None] - centre[:, 1, None, None]
        return (x**2 + y**2 < radius**2).float()

    picture = discs(size)[:, None] + 0.3 * torch.randn(batch, 3, size, size, generator=generator)
    return {"pixel_values": picture, "points": centre[:, None, None], "masks": discs(mask_size)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sam", help="folder or Hub id of a SamModel; default: a small one with random weights")
    parser.add_argument("--steps", type=int, default=10, help="training steps in part 1")
    parser.add_argument("--output_dir", type=Path, help="folder for the adapters; default: a temporary one")
    arguments = parser.parse_args()
    torch.manual_seed(0)

    with tempfile.TemporaryDirectory() as scratch:
        output = arguments.output_dir or Path(scratch)
        base = arguments.sam or Path(scratch) / "sam"
        if arguments.sam is None:
            save_random_sam(base)
        with naming_checkpoint(base):
            check_place(base)

        print("1. MALA on a SamModel")
        sam = SamModel.from_pretrained(base)
        model = get_peft_model(sam, MalaConfig(adapter_dim=16, modules_to_save=["mask_decoder"]))
        model.print_trainable_parameters()
        size = sam.config.vision_config.image_size
        optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-3)
        generator = torch.Generator().manual_seed(0)
        for step in range(arguments.steps):
            batch = painted_discs(2, size, size // 4, generator)
            output_masks = model(
                pixel_values=batch["pixel_values"], input_points=batch["points"], multimask_output=False
            ).pred_masks[:, 0, 0]
            loss = F.binary_cross_entropy_with_logits(output_masks, batch["masks"])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            print(f"   step {step + 1}: loss {loss.item():.3f}")
        model.save_pretrained(output / "mala")
        again = PeftModel.from_pretrained(SamModel.from_pretrained(base), output / "mala")
        pixels = painted_discs(1, size, size // 4, generator)["pixel_values"]
        difference = again.get_image_embeddings(pixels) - model.get_image_embeddings(pixels)
        print(f"   saved and loaded: embeddings differ by {difference.abs().max():.1e}")
        with again.disable_adapter():
            plain = again.get_image_embeddings(pixels)
        print(f"   removed: SAM's own embedding: {torch.equal(plain, again.unload().get_image_embeddings(pixels))}")

        print("2. The same MALA in a CF-SAM")
        cfsam = CfSamForNucleiSegmentation.from_pretrained(base, num_types=2, adapter_dim=16)
        weights = from_peft_state_dict(get_peft_model_state_dict(model))
        cfsam.load_state_dict(weights, strict=False)
        with torch.no_grad():
            moved = cfsam.sam.vision_encoder(pixels).last_hidden_state
        difference = moved - model.get_image_embeddings(pixels)
        print(f"   {len(weights)} tensors moved: embeddings differ by {difference.abs().max():.1e}")

        print("3. LoRA beside MALA")
        cfsam.add_adapter(LoraConfig(r=4, target_modules=ENCODER_ATTENTION))
        # PEFT froze everything but LoRA; this unfreezes what the configuration trains, and leaves LoRA unchanged.
        cfsam.freeze()
        cfsam.print_trainable_parameters()
        # ... train here ...
        cfsam.save_pretrained(output / "lora")  # LoRA alone, as always with PEFT
        cfsam.save_adapter(output / "cfsam")  # the rest, MALA and the heads; warns that LoRA is not in it
        loaded = CfSamForNucleiSegmentation.from_adapter(output / "cfsam", base=base)
        loaded.load_adapter(str(output / "lora"))
        print(f"   loaded: CF-SAM {loaded.active_adapter!r}, PEFT {loaded.active_adapters()}")
        # Instead of MALA: from_pretrained(base, use_mala=False), then the same calls.


if __name__ == "__main__":
    with errors_in_one_line():
        main()
