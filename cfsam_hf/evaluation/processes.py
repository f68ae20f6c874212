"""Shares tiles among the processes that `accelerate launch` started, and gathers their results."""

import os
from collections.abc import Sequence
from typing import Any, TypeVar

Item = TypeVar("Item")


class Processes:
    """The processes of a run as one of them sees them; a single one if nothing else was launched.

    Args:
        device: torch device, as on the command line; None lets Accelerate assign one to each process.

    Attributes:
        rank, count: number of this process, and number of processes.
        device: torch device of this process; None leaves the choice to the caller.

    Raises:
        ImportError: several processes were launched and `accelerate` is not installed.
    """

    def __init__(self, device: str | None = None):
        self.rank, self.count, self.device, self._state = 0, 1, device, None
        if int(os.environ.get("WORLD_SIZE", "1")) < 2:
            return
        try:
            from accelerate import PartialState
        except ImportError as error:
            raise ImportError(
                "several processes need the `accelerate` package: pip install 'cfsam_hf[train]'"
            ) from error
        self._state = PartialState(cpu=device == "cpu")
        self.rank, self.count = self._state.process_index, self._state.num_processes
        self.device = device or str(self._state.device)

    @property
    def is_main(self) -> bool:
        """Whether this is the process that writes and prints."""
        return self.rank == 0

    def share(self, items: Sequence[Item]) -> list[tuple[int, Item]]:
        """The items of this process with their positions; every item belongs to exactly one process."""
        return list(enumerate(items))[self.rank :: self.count]

    def gather(self, found: list[tuple[int, Any]]) -> list[Any]:
        """The results of all processes in the order of the items; the same list in every process."""
        if self._state is not None:
            from accelerate.utils import gather_object

            found = gather_object(found)
        return [result for _, result in sorted(found, key=lambda pair: pair[0])]

    def close(self) -> None:
        """Ends the communication between the processes."""
        if self._state is not None:
            self._state.destroy_process_group()
