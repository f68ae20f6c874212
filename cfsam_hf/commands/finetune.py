"""`cfsam finetune`: a checkpoint's adapter trained on a laboratory's own annotations, with scores before and after."""

import argparse
import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from .messages import describe, one_line
from .terminal import EXIT_FAILED, EXIT_OK, say


def run_finetune(args: argparse.Namespace) -> int:
    """Does what the parsed arguments of `cfsam finetune` say; returns the exit status."""
    if args.cpu:
        os.environ["ACCELERATE_USE_CPU"] = "true"
    try:
        from ..training.finetune import FinetuneOptions, finetune
        from ..training.launching import TrainingStopped
    except ImportError as error:
        raise OSError(f"cfsam finetune needs more packages ({error}): pip install 'cfsam_hf[train]'") from error
    from transformers.utils import logging as transformers_logging

    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    options = FinetuneOptions(
        checkpoint=args.checkpoint,
        mpp=args.mpp,
        types=None if args.types is None else tuple(name.strip() for name in args.types.split(",") if name.strip()),
        annotated_only=args.annotated_only,
        held_out=() if args.no_held_out else None if args.held_out is None else tuple(args.held_out),
        held_out_share=args.held_out_share,
        seed=args.seed,
        steps=args.steps,
        minutes=args.minutes,
        batch_size=args.batch_size,
        workers=args.workers,
        recipe=args.recipe,
    )
    annotations = args.images if args.annotations is None else args.annotations
    with _log_on_stderr():
        try:
            done = finetune(args.images, annotations, args.output, options, _tell)
        except TrainingStopped as stop:
            say(f"error: {describe(OSError(str(stop)))}")
            return EXIT_FAILED
    if done.was_done:
        print(f"{one_line(str(done.folder))} holds this fine-tuning, finished:")
    print(f"\n{done.table}" if done.table else "nothing was held out, so there are no scores")
    print(f"model, adapter, scores and pictures -> {one_line(str(done.folder))} (finetune.md says what is what)")
    return EXIT_OK


def _tell(sentence: str) -> None:
    print(one_line(sentence), flush=True)


@contextmanager
def _log_on_stderr() -> Iterator[None]:
    """Shows what training logs, a line each."""
    logger = logging.getLogger("cfsam_hf.training")
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%H:%M:%S"))
    level, propagate = logger.level, logger.propagate
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    logger.propagate = False
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
        logger.propagate = propagate
