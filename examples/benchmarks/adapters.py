"""Sizes of adapter files, and the time to switch adapters compared with loading a model again.

    python examples/benchmarks/adapters.py                   # cfsam-tiny's size, random weights
    python examples/benchmarks/adapters.py --size vit-b      # SAM ViT-B's size; half a GB of disk for a while

Times are CPU time on one thread, which equals wall time on an idle machine and does not depend on other processes; the
best of the repeats counts, with the files in the page cache.
"""

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from transformers.utils import logging

from cfsam_hf import CfSamConfig, CfSamForNucleiSegmentation
from cfsam_hf.commands.messages import errors_in_one_line
from cfsam_hf.model.adapter_files import WEIGHTS_FILE
from cfsam_hf.training import tiny_config


def best_milliseconds(run: Callable[[], object], repeats: int) -> float:
    times = []
    for _ in range(repeats):
        began = time.process_time()
        run()
        times.append(1000 * (time.process_time() - began))
    return min(times)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", choices=("tiny", "vit-b"), default="tiny")
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    logging.set_verbosity_error()
    logging.disable_progress_bar()

    with tempfile.TemporaryDirectory() as scratch:
        base, folders = Path(scratch) / "base", [Path(scratch) / name for name in ("first", "second")]
        config = tiny_config(num_types=4) if arguments.size == "tiny" else CfSamConfig(num_types=5)
        made = CfSamForNucleiSegmentation(config)
        made.save_pretrained(base)
        made.save_adapter(folders[0], base_name=str(base))
        made.save_adapter(folders[1], base_name=str(base), dtype=torch.bfloat16)
        trainable, total = made.get_nb_trainable_parameters()
        sizes = [(folder / WEIGHTS_FILE).stat().st_size / 1e6 for folder in folders]
        whole = sum(file.stat().st_size for file in base.glob("*.safetensors")) / 1e6
        print(f"{arguments.size}: {trainable / 1e6:.2f} M trainable of {total / 1e6:.2f} M parameters")
        print(f"adapter {sizes[0]:.2f} MB in float32, {sizes[1]:.2f} MB in bfloat16; whole checkpoint {whole:.1f} MB")

        load = best_milliseconds(lambda: CfSamForNucleiSegmentation.from_pretrained(base), arguments.repeats)
        model = CfSamForNucleiSegmentation.from_pretrained(base)
        names = iter(range(10**6))
        add = best_milliseconds(
            lambda: model.load_adapter(folders[0], adapter_name=str(next(names))), arguments.repeats
        )
        model.load_adapter(folders[1])

        def there_and_back() -> None:
            model.set_adapter("0")
            model.set_adapter("second")

        switch = best_milliseconds(there_and_back, 20 * arguments.repeats) / 2
        save = best_milliseconds(lambda: made.save_adapter(folders[0]), arguments.repeats)
        print(f"from_pretrained {load:.0f} ms, load_adapter {add:.0f} ms, set_adapter {switch:.1f} ms")
        print(f"save_adapter {save:.0f} ms")


if __name__ == "__main__":
    with errors_in_one_line():
        main()
