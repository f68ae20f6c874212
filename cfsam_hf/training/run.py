"""One training run: steps, checkpoints, validation, pictures, and the model and report at its end.

Everything that determines what is learned is a function of the recipe and the step alone: crops, learning rates, and
the random numbers of dropout. A resumed run on a CPU therefore ends, bit for bit, with the weights of an uninterrupted
one.
"""

import contextlib
import functools
import logging
import math
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from accelerate import Accelerator
from accelerate.utils import DistributedType, gather_object
from torch import nn
from torch.distributed.tensor import DTensor
from torch.utils.data import DataLoader
from transformers import PreTrainedModel

from ..data import CropDataset
from ..drawing.picture_files import write_picture
from ..evaluation.processes import Processes
from ..evaluation.run import evaluate_records
from ..evaluation.scoring import summarize_tiles
from ..evaluation.systems import checkpoint_system
from ..files.atomic import atomic_path
from ..files.json_files import write_json
from ..model.pipeline_cfsam import NucleiSegmentationPipeline
from ..model.processing_cfsam import CfSamProcessor
from .agreement import training_loss
from .checkpoints import (
    check_checkpoint,
    checkpoint_steps,
    prune_checkpoints,
    read_facts,
    restore,
    restore_averages,
    set_aside_later_checkpoints,
    training_tensors,
    whole_tensor,
    write_checkpoint,
)
from .ema import ExponentialMovingAverage
from .export import model_facts, results_record, write_model
from .interruption import Abandoned, Interruption, ignore_signals
from .launching import TrainingInterrupted, TrainingStopped, crops_per_step, full_disk_explained
from .models import measure_type_levels, needs_type_levels
from .monitor import RunMonitor
from .optimization import make_optimizer, set_learning_rates
from .pictures import comparison_picture
from .recipe import Recipe
from .report import write_report
from .resuming import check_is_same_run, claim_folder
from .run_log import validation_history, validations
from .teacher import load_teacher
from .training_data import TrainingData, picture_examples

logger = logging.getLogger(__name__)

PICTURES_NAME = "pictures"


class TrainingRun:
    """A new or resumed run.

    Args:
        recipe: every value.
        accelerator: see [`make_accelerator`].
        data: for validation and pictures, and to detect data that changed since the last checkpoint.
        model: to train.
        processor: saved beside the model.
        crops: at least `recipe.optimization.steps` times [`crops_per_step`] of them.

    Attributes:
        step: number of completed optimiser steps, skipped batches included.
        folder: of the run. It gets `recipe.yaml`, `log.jsonl`, `checkpoint-<step>/`, `pictures/` and, at the end,
            `model/` (for `from_pretrained`), `results.json` and `report.html`.

    Raises:
        OSError: another process trains in the folder, or all its checkpoints are damaged.
        ValueError: the folder holds a run of another recipe, or its images or annotations have changed since.
    """

    def __init__(
        self,
        recipe: Recipe,
        accelerator: Accelerator,
        data: TrainingData,
        model: PreTrainedModel,
        processor: CfSamProcessor,
        crops: CropDataset,
    ):
        self.recipe, self.accelerator, self.data, self.processor, self.crops = (
            recipe,
            accelerator,
            data,
            processor,
            crops,
        )
        self.folder = Path(recipe.run.output_dir)
        self.crops_per_step = crops_per_step(recipe, accelerator)
        self.step = 0
        self.skipped: list[int] = []
        self._model_class = type(model)
        self._memory_format = torch.contiguous_format
        if accelerator.distributed_type != DistributedType.FSDP:
            # The layer norms of the heads are over channels: a tenth faster on a CPU. Sharded parameters cannot have
            # this layout.
            self._memory_format = torch.channels_last
            model.to(memory_format=self._memory_format)
        self.teacher = load_teacher(recipe, model.config, processor.image_processor, accelerator.autocast)
        self._teacher_digest = None if self.teacher is None else self.teacher.digest
        if self.teacher is not None:
            self.teacher.model.to(accelerator.device, memory_format=self._memory_format)
        if needs_type_levels(model, recipe.model):
            measure_type_levels(model, crops)
        optimizer = make_optimizer(model, recipe.optimization)
        if recipe.optimization.compile:
            model.compile()
        trainable, total = model.get_nb_trainable_parameters()
        self.model, self.optimizer = accelerator.prepare(model, optimizer)
        self._trained = self.model
        if recipe.model.train_types_alone:
            self._trained = functools.partial(self.model, types_alone=True)
        self.plain = accelerator.unwrap_model(self.model)
        self.is_sharded = any(isinstance(p, DTensor) for p in self.plain.parameters())
        self.ema = ExponentialMovingAverage(self.plain, recipe.optimization.ema_decay)
        self._resume()
        self.monitor = RunMonitor(recipe, accelerator, self.folder, self.step, self.crops_per_step)
        self._say(
            "%s trainable of %s parameters; %d crops a step", f"{trainable:,}", f"{total:,}", self.crops_per_step
        )
        accelerator.init_trackers("cfsam", config={name: str(value) for name, value in recipe.to_dict().items()})
        self._batches = self._make_batches()
        self._examples: list | None = None
        self._interruption = Interruption()
        self._stop_signal = 0

    def train(self) -> None:
        """Trains all remaining steps, with checkpoints, validations and pictures when they are due.

        Raises:
            TrainingInterrupted: a signal asked the process to end; there is a checkpoint of the last step done.
            TrainingStopped: a loss that is not finite, or a full disk.
        """
        options, steps = self.recipe.run, self.recipe.optimization.steps
        self.plain.train()
        with Interruption() as self._interruption, self.monitor.showing(), full_disk_explained(self.folder):
            if self.step and self.step not in validations(self.folder):
                # The process ended between a checkpoint and its validation.
                self._evaluate_and_draw(evaluate=self._evaluation_is_due(), draw=False)
            while self.step < steps:
                with self.monitor.timing():
                    self._optimise()
                if self._is_due(options.log_every):
                    self.monitor.write(len(self.skipped))
                if self._is_due(options.save_every):
                    self.save()
                self._stop_if_asked()
                self._evaluate_and_draw(self._evaluation_is_due(), self._is_due(options.picture_every))

    def _evaluate_and_draw(self, evaluate: bool, draw: bool) -> None:
        """The work that a signal may cut short, since a resumed run repeats it."""
        try:
            if evaluate:
                self.evaluate()
            if draw:
                self.draw()
        except Abandoned:
            self._stop_signal = self._interruption.signal_number
            self._stop_if_asked()

    def _stop_if_asked(self) -> None:
        """Ends the run with a checkpoint if a signal came. All processes get here with the same answer."""
        if not self._stop_signal:
            return
        if self.step not in checkpoint_steps(self.folder):
            self.save()
        raise TrainingInterrupted(self._stop_signal, self.folder / f"checkpoint-{self.step}")

    def _is_due(self, every: int) -> bool:
        return self.step == self.recipe.optimization.steps or (every > 0 and self.step % every == 0)

    def _evaluation_is_due(self) -> bool:
        return bool(self.data.validation) and self._is_due(self.recipe.run.evaluate_every)

    def _say(self, message: str, *values: Any) -> None:
        if self.accelerator.is_main_process:
            logger.info(message, *values)

    def _resume(self) -> None:
        """Locks the folder, and restores its last undamaged checkpoint, if there is one."""
        checkpoint, self._lock = claim_folder(self.folder, self.accelerator)
        if checkpoint is not None:
            facts = read_facts(checkpoint)
            check_is_same_run(self.folder, facts, self.recipe, self.crops_per_step, self.data, self._teacher_digest)
            restore(checkpoint, self.plain, self.optimizer.optimizer, self.ema)
            self.step, self.skipped = facts["step"], facts["skipped"]
            if self.accelerator.scaler is not None and facts["scaler"]:
                self.accelerator.scaler.load_state_dict(facts["scaler"])
            self._say("resumed from %s", checkpoint)
        self.accelerator.wait_for_everyone()
        if self.accelerator.is_main_process:
            set_aside_later_checkpoints(self.folder, self.step)
            with atomic_path(self.folder / "recipe.yaml") as working:
                working.write_text(yaml.safe_dump(self.recipe.to_dict(), sort_keys=False), encoding="utf-8")

    def _crop_numbers(self, step: int, number: int) -> range:
        """The crops of this process in a pass of a step; together they do not depend on the number of processes."""
        options, processes = self.recipe.optimization, self.accelerator.num_processes
        first = step * self.crops_per_step + number * options.batch_size * processes
        return range(first + self.accelerator.process_index, first + options.batch_size * processes, processes)

    def _make_batches(self) -> Iterator[dict[str, torch.Tensor]]:
        options, workers = self.recipe.optimization, self.recipe.data.num_workers
        passes = range(options.gradient_accumulation_steps)
        # Ranges, which take less memory than the lists that the annotation asks for.
        batches: Any = [self._crop_numbers(step, n) for step in range(self.step, options.steps) for n in passes]
        loader = DataLoader(
            self.crops,
            batch_sampler=batches,
            num_workers=workers,
            worker_init_fn=ignore_signals,
            prefetch_factor=4 if workers else None,
            pin_memory=self.accelerator.device.type == "cuda",
        )
        return iter(loader)

    def _next_batch(self) -> dict[str, torch.Tensor]:
        with self.monitor.waiting():
            batch = next(self._batches)
        batch = {name: value.to(self.accelerator.device, non_blocking=True) for name, value in batch.items()}
        batch["pixel_values"] = batch["pixel_values"].contiguous(memory_format=self._memory_format)
        return batch

    def _optimise(self) -> None:
        """One optimiser step. A batch whose loss or gradient is not finite is skipped, or ends the run."""
        accelerator, options = self.accelerator, self.recipe.optimization
        torch.manual_seed(_step_seed(options.seed, self.step, accelerator.process_index))
        set_learning_rates(self.optimizer, self.step, options)
        passes = options.gradient_accumulation_steps
        losses = []
        for number in range(passes):
            batch = self._next_batch()
            # Gradients are exchanged once a step.
            last = number == passes - 1
            with contextlib.nullcontext() if last else accelerator.no_sync(self.model):
                loss, terms = training_loss(self._trained, batch, self.recipe.data.crop_size, options, self.teacher)
                accelerator.backward(loss / passes)
            losses.append(torch.stack([loss.detach().float(), *(v.float() for v in terms.values())]))
        # A signal may reach one process in this step and another in the next; here they agree on it.
        signal_number = self._interruption.signal_number
        means = torch.cat([torch.stack(losses).mean(0), losses[0].new_tensor([signal_number])])
        if accelerator.num_processes > 1:
            means = accelerator.reduce(means, reduction="mean")
        *values, mean_signal = means.tolist()
        self._stop_signal = (signal_number or signal.SIGTERM) if mean_signal else 0
        norm = math.nan
        if math.isfinite(values[0]):
            norm = float(whole_tensor(accelerator.clip_grad_norm_(self.model.parameters(), options.clip_norm)))
        # The scaler of fp16 expects gradients to overflow and handles them itself.
        usable = math.isfinite(values[0]) and (accelerator.scaler is not None or math.isfinite(norm))
        if usable:
            self.optimizer.step()
            if not accelerator.optimizer_step_was_skipped:
                self.ema.update(self.plain)
        else:
            what = "gradient" if math.isfinite(values[0]) else "loss"
            self._leave_out([loss[0].item() for loss in losses], what)
        self.optimizer.zero_grad()
        self.step += 1
        if usable:
            self.monitor.note(["loss", *terms], values, norm, self.optimizer.param_groups[-1]["lr"])

    def _leave_out(self, losses: list[float], what: str) -> None:
        """Skips a batch whose loss or gradient is not finite, or ends the run.

        Raises:
            TrainingStopped: the recipe asks for it, or too many batches in a row were skipped.
        """
        bad = [number for number, loss in enumerate(losses) if not math.isfinite(loss)]
        if what == "gradient":
            # The losses are finite and their gradient is not: any of the batches may be at fault.
            bad = list(range(len(losses)))
        crops = sorted(gather_object([index for number in bad for index in self._crop_numbers(self.step, number)]))
        tiles = sorted({self.crops.tile_of(index) for index in crops})
        story = f"The {what} of step {self.step} is not finite: crops {crops} from the tiles {', '.join(tiles)}"
        most = self.recipe.run.max_skipped
        self.skipped.append(self.step)
        too_many = self.skipped[-most:] == list(range(self.step - most + 1, self.step + 1))
        if self.recipe.run.on_nonfinite == "stop" or too_many:
            steps = checkpoint_steps(self.folder)
            advice = (
                f"It is batch number {most} in a row, so it is not the data: lower the learning rate."
                if too_many
                else "Look at these tiles, lower the learning rate, or skip such batches with on_nonfinite=skip."
            )
            raise TrainingStopped(
                f"{story}. The weights did not change; the last checkpoint is "
                f"{self.folder / f'checkpoint-{steps[-1]}' if steps else 'none, as none was written yet'}. {advice}"
            )
        if self.monitor.log is not None:
            logger.warning("%s. The batch is skipped.", story)
            self.monitor.log.write({"step": self.step + 1, "left_out": crops, "tiles": tiles})

    def save(self) -> None:
        """Writes a checkpoint, and removes those that `keep_checkpoints` does not keep."""
        tensors = training_tensors(self.plain, self.optimizer.optimizer, self.ema)
        if self.accelerator.is_main_process:
            scaler = self.accelerator.scaler
            facts = {
                "recipe": self.recipe.to_dict(),
                "crops_per_step": self.crops_per_step,
                "tiles": self.data.digests,
                "teacher": self._teacher_digest,
                "ema_updates": self.ema.num_updates,
                "skipped": self.skipped,
                "scaler": None if scaler is None else scaler.state_dict(),
            }
            write_checkpoint(self.folder, self.step, tensors, facts)
            self._prune()
        self.accelerator.wait_for_everyone()

    def _prune(self) -> None:
        best = self.best()
        prune_checkpoints(self.folder, self.recipe.run.keep_checkpoints, () if best is None else (best["step"],))

    def best(self) -> dict[str, Any] | None:
        """Step and score of the best validation that has a checkpoint; `None` without one."""
        metric = self.recipe.run.best_metric
        history = validation_history(self.folder, metric)
        kept = {step: score for step, score in history.items() if (self.folder / f"checkpoint-{step}").is_dir()}
        if not kept:
            return None
        step = max(kept, key=lambda step: kept[step])
        return {"step": step, "metric": metric, "score": kept[step]}

    @contextlib.contextmanager
    def averaged_model(self) -> Iterator[PreTrainedModel]:
        """Gives a model with the averaged weights that predicts in full precision.

        It is the model in training, which gets its own weights back after the block. Where parameters are sharded it
        is a copy that each process holds whole, since processes predict different tiles.
        """
        if self.is_sharded:
            model = self._model_class(self.plain.config)
            weights = {name: whole_tensor(value) for name, value in self.plain.state_dict().items()}
            weights |= {name: whole_tensor(average) for name, average in self.ema.average.items()}
            model.load_state_dict(weights)
            yield model.to(self.accelerator.device).eval()
            return
        self.plain.eval()
        with self.ema.applied_to(self.plain), _without_autocast(self.plain), torch.compiler.set_stance("force_eager"):
            yield self.plain
        self.plain.train()

    def evaluate(self) -> dict[str, dict[str, float]]:
        """Scores the averaged weights on the validation tiles, split over the processes; keeps the best.

        Returns:
            Scores by data set, the same in every process.
        """
        with self.averaged_model() as model:
            # By default a pipeline takes the first GPU, which need not be the one that trains.
            pipe = NucleiSegmentationPipeline(
                model=model, image_processor=self.processor.image_processor, device=self.accelerator.device
            )
            system = checkpoint_system(pipe, str(self.folder))
            with self._abandoning():
                scores = {
                    name: summarize_tiles(evaluate_records(records, system, Processes(str(self.accelerator.device))))
                    for name, records in self.data.validation.items()
                }
        metric = self.recipe.run.best_metric
        before = self.best()
        now = _mean_score(scores, metric)
        is_best = math.isfinite(now) and (before is None or now > before["score"])
        must_save = is_best and not (self.folder / f"checkpoint-{self.step}").is_dir()
        # All processes have read this before any of them changes it.
        self.accelerator.wait_for_everyone()
        if must_save:
            self.save()
        if self.monitor.log is not None:
            self.monitor.log.write({"step": self.step, "validation": scores})
            self._prune()
            flat = {f"validation/{name}/{key}": v for name, of_set in scores.items() for key, v in of_set.items()}
            self.accelerator.log({key: value for key, value in flat.items() if math.isfinite(value)}, self.step)
            self._say("step %d validation %s %.4f", self.step, metric, now)
        self.accelerator.wait_for_everyone()
        return scores

    def draw(self) -> None:
        """Writes `pictures/step-<step>.png`, and passes it to the trackers that take pictures."""
        if not self.accelerator.is_main_process and not self.is_sharded:
            return
        with self.averaged_model() as model:
            if not self.accelerator.is_main_process:
                return
            if self._examples is None:
                self._examples = picture_examples(self.recipe, self.data, model.config)
            with self._abandoning():
                picture = comparison_picture(
                    model, self.processor.image_processor, self._examples, self.accelerator.device
                )
        folder = self.folder / PICTURES_NAME
        folder.mkdir(exist_ok=True)
        write_picture(picture, folder / f"step-{self.step:08d}.png")
        for tracker in self.accelerator.trackers:
            if hasattr(tracker, "log_images"):
                # The other trackers expect rows first anyway.
                options = {"dataformats": "NHWC"} if tracker.name == "tensorboard" else {}
                tracker.log_images({"examples": np.asarray(picture)[None]}, step=self.step, **options)

    def _abandoning(self) -> contextlib.AbstractContextManager[None]:
        """Lets a signal end the block at once, unless another process waits for its result."""
        alone = self.accelerator.num_processes == 1
        return self._interruption.abandoning() if alone else contextlib.nullcontext()

    def finish(self, **facts: Any) -> Path:
        """Writes `model/`, `results.json` and `report.html`, ends the trackers, and releases the folder.

        Args:
            facts: added to the model's `checkpoint_info`, such as `name` and `license`.

        Returns:
            The model's folder.

        Raises:
            TrainingStopped: the disk is full, or the checkpoint that `export=best` names is damaged.
        """
        best, step = self.best(), self.step
        if self.recipe.run.export == "best" and best is not None:
            step = best["step"]
            checkpoint = self.folder / f"checkpoint-{step}"
            try:
                check_checkpoint(checkpoint)
            except OSError as error:
                raise TrainingStopped(f"{error}. Give export=last to export the weights of the last step.") from error
            restore_averages(checkpoint, self.ema)
        facts = model_facts(self.recipe, self.crops_per_step, step) | {"data": self.data.description()} | facts
        with full_disk_explained(self.folder), self.averaged_model() as model:
            if self.accelerator.is_main_process:
                teacher = None if self.teacher is None else self.teacher.info
                write_model(model, self.processor, self.folder / "model", facts, teacher)
                if scores := validations(self.folder).get(step):
                    record = results_record(self.folder.name, step, scores, self.data, self.processor)
                    write_json(self.folder / "results.json", record)
                write_report(self.folder, self.recipe, self.data.description())
                self._say("wrote %s and %s", self.folder / "model", self.folder / "report.html")
        self.accelerator.wait_for_everyone()
        self.accelerator.end_training()
        if self._lock is not None:
            self._lock.release()
        return self.folder / "model"


def _mean_score(scores: dict[str, dict[str, float]], metric: str) -> float:
    for name, of_set in scores.items():
        if metric not in of_set:
            raise ValueError(f"the validation of {name} has no {metric!r} (best_metric); it has {', '.join(of_set)}.")
    return sum(of_set[metric] for of_set in scores.values()) / len(scores)


def _step_seed(seed: int, step: int, process: int) -> int:
    """Seed of all that torch draws in a step of a process."""
    return int(np.random.SeedSequence((seed, step, process)).generate_state(1, np.uint64)[0])


@contextlib.contextmanager
def _without_autocast(model: nn.Module) -> Iterator[None]:
    """Undoes, within the block, the mixed precision that Accelerate puts into `model.forward`."""
    wrapped = vars(model).pop("forward", None)
    try:
        yield
    finally:
        if wrapped is not None:
            model.forward = wrapped
