"""Actors of one kind: which are free, where they run, and new ones in place of those that have died.

Ray decides where an actor runs, and finds out that one has died. It is then replaced and not restarted: what Ray sends
to an actor that restarts counts as a failed try each time, so that a short outage would use up the tries of work that
is harmless.
"""

import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

STARTS = 3
"""How often in a row an actor may fail to start."""
STARTING = 120.0
"""Seconds for which an actor that starts may turn out to be on another machine than the others. Longer, there is
probably no room for it."""


@dataclass(eq=False)
class Member:
    """
    An actor, or its successors.

    Attributes:
        handle: of Ray.
        node: the machine that it runs on, "" until it has started.
        since: when its start began, in seconds of `time.monotonic`.
        failures: starts in a row that have failed.
    """

    handle: Any
    node: str = ""
    since: float = 0.0
    failures: int = 0


class Crew:
    """
    Actors of one kind.

    Args:
        create: gives the handle of a new actor, which has a method `start` that returns the id of its machine.
        arguments: of `start`.
        count: how many there are.
    """

    def __init__(self, create: Callable[[], Any], arguments: Sequence[Any], count: int):
        self._create = create
        self._arguments = tuple(arguments)
        self.members = [Member(None) for _ in range(count)]
        self.idle: deque[Member] = deque()

    @property
    def nodes(self) -> set[str]:
        """The machines on which members have started, and "" while one that is starting may be on yet another."""
        now = time.monotonic()
        return {member.node for member in self.members if member.node or now - member.since < STARTING}

    def begin(self, member: Member) -> Any:
        """Starts an actor, the first of a member or its successor. Returns a reference to the id of its machine."""
        member.node, member.since = "", time.monotonic()
        member.handle = self._create()
        return member.handle.start.remote(*self._arguments)

    def joined(self, member: Member, node: str) -> None:
        """Notes that an actor has started."""
        member.node, member.failures = node, 0
        self.idle.append(member)

    def failed(self, member: Member, error: Exception) -> bool:
        """
        Notes that an actor could not start.

        Returns:
            Whether it should be tried again.

        Raises:
            OSError: no member is left.
        """
        member.failures += 1
        if member.failures < STARTS:
            return True
        self.members.remove(member)
        if not self.members:
            raise OSError(f"no worker of the cluster can start: {' '.join(str(error).split())}") from error
        return False
