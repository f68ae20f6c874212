"""Train CF-SAM on nuclei data sets, on one CPU, one GPU or many.

Adapt SAM (frozen encoder; only adapters, fusion, mask decoder and refinement are trained):

    accelerate launch examples/train.py --base facebook/sam-vit-base --output_dir runs/sam-b \
        --data reader=consep,path=CoNSeP,split=examples/splits/consep.json

Make the small backbone of `cfsam-tiny` from nothing:

    accelerate launch examples/train.py --base tiny --train_encoder --output_dir runs/tiny \
        --data reader=consep,path=CoNSeP,split=examples/splits/consep.json \
               reader=monuseg,path=MoNuSegTrainingData,split=examples/splits/monuseg.json,weight=0.8

The same command again goes on from the last checkpoint. The run's folder gets `log.jsonl`, `checkpoint-<step>/` (only
what is trained) and, at the end, `model/`: a folder for `from_pretrained` with the averaged weights.
"""

import json
import logging
import math
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from torch.utils.data import DataLoader
from transformers import HfArgumentParser, PreTrainedModel

from cfsam_hf import CfSamConfig, CfSamForNucleiSegmentation, CfSamImageProcessor, CfSamProcessor
from cfsam_hf.baselines.unet import UNetConfig, UNetForNucleiSegmentation
from cfsam_hf.data import CropDataset, CropSource
from cfsam_hf.data.data_items import DataItem, records_by_dataset
from cfsam_hf.export.json_files import append_json_line
from cfsam_hf.pipeline_cfsam import NucleiSegmentationPipeline
from cfsam_hf.training import (
    ExponentialMovingAverage,
    cosine_with_warmup,
    latest_checkpoint,
    load_training_state,
    parameter_groups,
    save_training_state,
    tiny_config,
)
from cfsam_hf.training.validation import evaluate_tiles

logger = logging.getLogger("train")


@dataclass
class TrainingRecipe:
    """Every value of a run, with its reason."""

    output_dir: str = field(metadata={"help": "folder of the run"})
    data: list[str] = field(
        metadata={
            "help": "one item per folder: reader=NAME,path=FOLDER[,split=FILE][,weight=NUMBER]; of a folder with a "
            "split file only the tiles that it names are used, of one without all are trained on"
        }
    )

    base: str = field(
        default="facebook/sam-vit-base",
        metadata={"help": "'tiny' or 'unet' (random), or folder or Hub id of a SamModel or of a CF-SAM checkpoint"},
    )
    train_encoder: bool = field(default=False, metadata={"help": "train the SAM encoder too: only to make a backbone"})
    model_options: str = field(default="{}", metadata={"help": "JSON of CfSamConfig fields"})

    steps: int = field(default=5000, metadata={"help": "optimiser steps"})
    batch_size: int = field(default=8, metadata={"help": "crops per process and step"})
    crop_size: int = field(default=256, metadata={"help": "pixels; the tile size of PanNuke and of cfsam-tiny"})
    learning_rate: float = field(default=6e-4, metadata={"help": "peak; 6e-4 from scratch, 3e-4 to adapt SAM"})
    mask_decoder_factor: float = field(default=1.0, metadata={"help": "rate of SAM's mask decoder over the rest"})
    weight_decay: float = field(default=0.05, metadata={"help": "AdamW, not on norms, biases, tokens"})
    beta2: float = field(default=0.98, metadata={"help": "short memory, for short runs"})
    warmup_steps: int = field(default=200, metadata={"help": "linear warm-up, then cosine"})
    clip_norm: float = field(default=1.0, metadata={"help": "gradient norm; spikes come from tiles with odd stains"})
    ema_decay: float = field(default=0.998, metadata={"help": "of the averaged weights that are kept: ~500 steps"})
    mixed_precision: str = field(default="bf16", metadata={"help": "no, bf16 or fp16 (GPU only)"})
    gradient_checkpointing: bool = field(default=False, metadata={"help": "less memory, a third more time"})

    nucleus_probability: float = field(default=0.6, metadata={"help": "share of crops placed on a drawn nucleus"})
    seed: int = field(default=0, metadata={"help": "of weights and crops"})
    num_workers: int = field(default=1, metadata={"help": "crop-making processes per training process"})
    log_every: int = field(default=20, metadata={"help": "steps"})
    save_every: int = field(default=500, metadata={"help": "steps"})
    evaluate_every: int = field(default=1000, metadata={"help": "steps; 0: only at the end"})
    tile_overlap: int = field(default=64, metadata={"help": "pixels in which tiles are blended in validation"})

    def __post_init__(self):
        for name in ("steps", "batch_size", "crop_size", "log_every", "save_every"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be positive, got {getattr(self, name)}.")
        try:
            json.loads(self.model_options)
        except json.JSONDecodeError as error:
            raise ValueError(f"model_options is not JSON: {self.model_options!r} ({error}).") from error


def build_model(recipe: TrainingRecipe, type_names: dict[int, str]) -> PreTrainedModel:
    """The model to train: a random tiny one or U-Net, or a pretrained SAM or CF-SAM."""
    if recipe.base == "unet":
        return UNetForNucleiSegmentation(UNetConfig(id2label=type_names, **json.loads(recipe.model_options)))
    options = json.loads(recipe.model_options) | {"train_encoder": recipe.train_encoder}
    if recipe.base == "tiny":
        return CfSamForNucleiSegmentation(tiny_config(id2label=type_names, **options))
    if CfSamConfig.get_config_dict(recipe.base)[0].get("model_type") != "cfsam":
        options["id2label"] = type_names
    model = CfSamForNucleiSegmentation.from_pretrained(recipe.base, dtype=torch.float32, **options)
    if model.config.type_names != type_names:
        raise ValueError(f"{recipe.base} knows the types {model.config.type_names}, the data {type_names}.")
    return model


def main() -> None:
    recipe = HfArgumentParser(TrainingRecipe).parse_args_into_dataclasses()[0]
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    accelerator = Accelerator(mixed_precision=recipe.mixed_precision)
    set_seed(recipe.seed)
    run = Path(recipe.output_dir)
    run.mkdir(parents=True, exist_ok=True)

    items = [DataItem.parse(text) for text in recipe.data]
    training = [(item, [record.load() for record in item.records("train")]) for item in items]
    for item, tiles in training:
        if not tiles:
            raise ValueError(f"None of the training tiles of {item.split} are in {item.path}.")
    validation = records_by_dataset(items, "validation")
    names = list(dict.fromkeys(name for _, tiles in training for name in tiles[0].type_names.values()))
    type_ids = {name: i for i, name in enumerate(names, start=1)}
    model = build_model(recipe, {i: name for name, i in type_ids.items()})
    # The layer norms of the heads are over channels: a tenth faster on a CPU.
    model.to(memory_format=torch.channels_last)
    if recipe.gradient_checkpointing:
        # transformers before 5.23 has it under its older name.
        getattr(model, "activation_checkpointing_enable", model.gradient_checkpointing_enable)()
    processor = CfSamProcessor(
        CfSamImageProcessor(
            mpp=model.config.mpp,
            tile_size=recipe.crop_size,
            tile_overlap=recipe.tile_overlap,
            pad_multiple=model.config.pad_multiple,
        )
    )
    per_step = recipe.batch_size * accelerator.num_processes
    sources = [
        CropSource(
            name=item.path,
            tiles=tiles,
            weight=item.weight,
            type_mapping={i: type_ids[name] for i, name in tiles[0].type_names.items()} or None,
            nucleus_probability=recipe.nucleus_probability,
        )
        for item, tiles in training
    ]
    crops = CropDataset(
        sources,
        size=recipe.crop_size,
        image_mean=processor.image_processor.image_mean,
        image_std=processor.image_processor.image_std,
        length=recipe.steps * per_step,
        seed=recipe.seed,
        num_types=model.config.num_types,
        mpp=model.config.mpp,
    )

    groups = parameter_groups(model, recipe.learning_rate, recipe.weight_decay, recipe.mask_decoder_factor)
    optimizer = torch.optim.AdamW(groups, betas=(0.9, recipe.beta2))
    peaks = [group["lr"] for group in optimizer.param_groups]
    ema = ExponentialMovingAverage(model, recipe.ema_decay)
    start = 0
    if (checkpoint := latest_checkpoint(run)) is not None:
        start = load_training_state(checkpoint, model, optimizer, ema)["step"]
        logger.info("resumed from %s", checkpoint)
    trainable, total = model.get_nb_trainable_parameters()
    logger.info("%s trainable of %s parameters; %d crops a step", f"{trainable:,}", f"{total:,}", recipe.batch_size)
    model, optimizer = accelerator.prepare(model, optimizer)
    ema.average = {name: value.to(accelerator.device) for name, value in ema.average.items()}

    # Crop i is the same in every run of this seed, so a resumed run sees what the uninterrupted one would have seen.
    mine = [
        range(step * per_step + accelerator.process_index, (step + 1) * per_step, accelerator.num_processes)
        for step in range(start, recipe.steps)
    ]
    loader = DataLoader(
        crops,
        batch_sampler=mine,
        num_workers=recipe.num_workers,
        prefetch_factor=4 if recipe.num_workers else None,
    )

    def evaluate(step: int) -> None:
        """Scores the averaged weights on the validation tiles, on the main process."""
        if not accelerator.is_main_process:
            return
        plain = accelerator.unwrap_model(model)
        plain.eval()
        with ema.applied_to(plain):
            # Left to itself a pipeline takes the first GPU, which need not be the one that trains.
            pipe = NucleiSegmentationPipeline(
                model=plain, image_processor=processor.image_processor, device=accelerator.device
            )
            for name, records in validation.items():
                scores = evaluate_tiles(
                    lambda tile, pipe=pipe, plain=plain: pipe(tile.image, mpp=tile.mpp or plain.config.mpp),
                    (record.load() for record in records),
                    plain.config.type_names,
                )
                append_json_line(run / "log.jsonl", {"step": step, "validation": name, **scores})
                logger.info("step %d %s %s", step, name, {k: round(v, 4) for k, v in scores.items()})
        plain.train()

    model.train()
    began, waited, last = time.monotonic(), 0.0, time.monotonic()
    for step, batch in zip(range(start, recipe.steps), loader, strict=True):
        waited += time.monotonic() - last
        for group, peak in zip(optimizer.param_groups, peaks, strict=True):
            group["lr"] = peak * cosine_with_warmup(step, recipe.warmup_steps, recipe.steps)
        batch = {name: value.to(accelerator.device, non_blocking=True) for name, value in batch.items()}
        batch["pixel_values"] = batch["pixel_values"].contiguous(memory_format=torch.channels_last)
        with accelerator.autocast():
            output = model(**batch)
        loss = output.loss.item()
        if not math.isfinite(loss):
            raise FloatingPointError(f"loss {loss} at step {step}, crops {mine[step - start]}: nothing was written.")
        accelerator.backward(output.loss)
        norm = accelerator.clip_grad_norm_(model.parameters(), recipe.clip_norm)
        optimizer.step()
        optimizer.zero_grad()
        ema.update(accelerator.unwrap_model(model))

        done = step + 1
        if accelerator.is_main_process and (done % recipe.log_every == 0 or done == recipe.steps):
            elapsed = time.monotonic() - began
            record = {
                "step": done,
                "loss": loss,
                **{name: round(value.item(), 5) for name, value in output.loss_parts.items()},
                "gradient_norm": round(float(norm), 4),
                "learning_rate": optimizer.param_groups[0]["lr"],
                "crops_per_second": round((done - start) * per_step / elapsed, 2),
                "data_wait_share": round(waited / elapsed, 4),
                "minutes_left": round((recipe.steps - done) * elapsed / (done - start) / 60, 1),
            }
            append_json_line(run / "log.jsonl", record)
            logger.info("step %d loss %.4f %s", done, loss, {k: record[k] for k in list(record)[-3:]})
        if done % recipe.save_every == 0 or done == recipe.steps:
            if accelerator.is_main_process:
                plain = accelerator.unwrap_model(model)
                save_training_state(run, done, plain, optimizer.optimizer, ema, {"recipe": asdict(recipe)})
            accelerator.wait_for_everyone()
        if recipe.evaluate_every and done % recipe.evaluate_every == 0 and done < recipe.steps:
            evaluate(done)
        last = time.monotonic()

    evaluate(recipe.steps)
    facts = {
        "base_model": recipe.base,
        "training": {
            "crops": recipe.steps * per_step,
            "train_encoder": recipe.train_encoder,
            **{name: getattr(recipe, name) for name in ("steps", "batch_size", "crop_size", "learning_rate", "seed")},
        },
        "data": [f"{item.dataset}: {len(tiles)} tiles" for item, tiles in training],
    }
    if accelerator.is_main_process:
        plain = accelerator.unwrap_model(model)
        plain.eval()
        plain.config.train_encoder = False
        plain.config.checkpoint_info = facts
        with ema.applied_to(plain):
            plain.to(memory_format=torch.contiguous_format).save_pretrained(run / "model")
        processor.save_pretrained(run / "model")
        logger.info("wrote %s", run / "model")
    accelerator.end_training()


if __name__ == "__main__":
    main()
