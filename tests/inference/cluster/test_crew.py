"""Why: actors that die must be replaced, and those that cannot start must neither be tried for ever nor forgotten."""

from types import SimpleNamespace

import pytest

from cfsam_hf.inference.cluster.crew import STARTING, STARTS, Crew


def make_crew(count):
    """A crew whose handles are numbered, and the arguments of every start."""
    started = []

    def create():
        number = len(started)
        return SimpleNamespace(start=SimpleNamespace(remote=lambda *args: started.append(args) or number))

    return Crew(create, ("model", 2), count), started


def test_members_start_with_their_arguments_and_become_idle():
    crew, started = make_crew(2)
    assert [crew.begin(member) for member in crew.members] == [0, 1]
    assert started == [("model", 2)] * 2
    assert not crew.idle
    crew.joined(crew.members[1], "a")
    assert list(crew.idle) == [crew.members[1]]
    crew.joined(crew.members[0], "b")
    assert crew.nodes == {"a", "b"}


def test_a_start_may_be_on_another_machine_but_not_for_ever(monkeypatch):
    crew, _ = make_crew(2)
    now = 1000.0
    monkeypatch.setattr("cfsam_hf.inference.cluster.crew.time.monotonic", lambda: now)
    for member in crew.members:
        crew.begin(member)
    crew.joined(crew.members[0], "a")
    assert crew.nodes == {"a", ""}
    now += STARTING + 1
    assert crew.nodes == {"a"}


def test_a_dead_member_gets_a_new_actor_and_leaves_its_machine():
    crew, _ = make_crew(1)
    [member] = crew.members
    crew.begin(member)
    crew.joined(member, "a")
    first = member.handle
    assert crew.begin(member) == 1
    assert member.handle is not first
    assert crew.nodes == {""}


def test_members_that_cannot_start_are_given_up_and_the_last_one_is_an_error():
    crew, _ = make_crew(2)
    first, second = crew.members
    error = RuntimeError("CUDA is\nnot available")
    assert [crew.failed(first, error) for _ in range(STARTS)] == [True] * (STARTS - 1) + [False]
    assert crew.members == [second]
    assert crew.failed(second, error)
    crew.joined(second, "a")
    assert [crew.failed(second, error) for _ in range(STARTS - 1)] == [True] * (STARTS - 1)
    with pytest.raises(OSError, match="no worker of the cluster can start: CUDA is not available"):
        crew.failed(second, error)
