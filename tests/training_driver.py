"""Runs training in processes that are killed at chosen points.

    python -m tests.training_driver ROOT alone|together KILL ...

Everything is imported once; each run is a fork. Prints a line of JSON: how each run ended, by name.
"""

import json
import os
import signal
import socket
import sys
import traceback
from collections.abc import Callable
from pathlib import Path

import torch

from cfsam_hf.files import atomic
from cfsam_hf.training import TrainingStopped, checkpoints, run, run_log

from .training_cases import smoke_recipe, start_run

Hook = Callable[[], None]


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _nth(owner: object, name: str, call: int, action: Callable) -> None:
    """Lets the n-th call of a function do something else: `action(original, *arguments)`."""
    original, calls = getattr(owner, name), [0]

    def counted(*arguments, **options):
        calls[0] += 1
        if calls[0] == call:
            return action(original, *arguments, **options)
        return original(*arguments, **options)

    setattr(owner, name, counted)


def _die_at(owner: object, name: str, call: int) -> Hook:
    return lambda: _nth(owner, name, call, lambda *arguments, **options: die())


def _die_in_a_file() -> None:
    def half_written(original, tensors, path):
        path.write_bytes(b"half of a")
        die()

    # The second file of the second checkpoint.
    _nth(checkpoints, "save_file", 5, half_written)


def _die_before_the_name() -> None:
    def unnamed(original, source, target):
        if Path(target).name == "checkpoint-4":
            die()
        return original(source, target)

    original = os.replace
    os.replace = lambda source, target: unnamed(original, source, target)


def _die_while_removing() -> None:
    def half_removed(original, path):
        if path.name.startswith("checkpoint-"):
            (path / "ema.safetensors").unlink()
            die()
        return original(path)

    original = atomic.remove
    atomic.remove = lambda path: half_removed(original, path)


def _die_in_a_line() -> None:
    def half_a_line(original, path, record):
        with path.open("a") as file:
            file.write(json.dumps(record)[:20])
        die()

    _nth(run_log, "append_json_line", 4, half_a_line)


# Steps 6, checkpoints at 2, 4, 6 of which one is kept, validation at 3 and 6.
KILLS: dict[str, Hook] = {
    "before the first checkpoint": _die_at(torch.optim.AdamW, "step", 2),
    "in a step": _die_at(torch.optim.AdamW, "step", 4),
    "between the files of a checkpoint": _die_in_a_file,
    "before a checkpoint gets its name": _die_before_the_name,
    "while an old checkpoint is removed": _die_while_removing,
    "in a validation": _die_at(run, "evaluate_records", 1),
    "in a line of the log": _die_in_a_line,
    "while the model is written": _die_at(run, "write_json", 1),
}


def train(root: Path, output: str, hook: Hook | None, **changes) -> None:
    torch.set_num_threads(1)
    values = {"steps": 6, "keep_checkpoints": 1, "evaluate_every": 3, "gradient_accumulation_steps": 2} | changes
    training = start_run(smoke_recipe(root, output_dir=str(root / output), **values), dropout=0.2)
    if hook is not None:
        hook()
    training.train()
    training.finish()


def fork(work: Callable[[], None], **environment: str) -> int:
    """Starts `work` in a child; gives its process id."""
    sys.stdout.flush()
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        os.environ.update(environment)
        # Only the parent's report goes to standard output.
        os.dup2(2, 1)
        work()
        code = 0
    except TrainingStopped as stop:
        print(stop, file=sys.stderr)
        code = 3
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(code)


def ended(child: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def free_port() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return str(probe.getsockname()[1])


def alone(root: Path, output: str, hook: Hook | None = None, **changes) -> int:
    return ended(fork(lambda: train(root, output, hook, **changes)))


def together(root: Path, output: str, hook: Hook | None = None, **changes) -> int:
    """Two processes; when the first, which has the hook, has died, the other is killed as a launcher does."""
    common = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port(), "ACCELERATE_USE_CPU": "true"}
    children = [
        fork(lambda hook=hook: train(root, output, hook, **changes), RANK=rank, LOCAL_RANK=rank, **common)
        for rank, hook in (("0", hook), ("1", None))
    ]
    first = ended(children[0])
    if first:
        os.kill(children[1], signal.SIGKILL)
    second = ended(children[1])
    return first or second


def main() -> None:
    root, kind, *kills = Path(sys.argv[1]), *sys.argv[2:]
    start = alone if kind == "alone" else together
    codes = {"whole": [start(root, "whole")]}
    for name in kills:
        codes[name] = [start(root, name, KILLS[name]), start(root, name)]
    print(json.dumps(codes))


if __name__ == "__main__":
    main()
