"""Why: threads beyond the physical cores, or beyond a container's quota, make the network slower."""

import os

import pytest
import torch

from cfsam_hf.inference import threads


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """Fakes a machine: the (socket, core) of each CPU, which of them the process may use, and files of its cgroup."""

    def fake(cpus, affinity=None, cgroup=None):
        for number, names in enumerate(cpus):
            folder = tmp_path / f"sys/devices/system/cpu/cpu{number}/topology"
            folder.mkdir(parents=True)
            for file, value in zip(("physical_package_id", "core_id"), names, strict=True):
                (folder / file).write_text(f"{value}\n")
        for name, text in (cgroup or {}).items():
            file = tmp_path / "sys/fs/cgroup" / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text)
        monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(affinity or range(len(cpus))), raising=False)
        return threads.physical_cores(tmp_path)

    return fake


def test_hyper_threads_of_a_core_count_once(machine):
    assert machine([(0, 0), (0, 1), (1, 0), (1, 1)] * 2) == 4


def test_only_cpus_that_the_process_may_use_count(machine):
    assert machine([(0, 0), (0, 1), (0, 2), (0, 3)] * 2, affinity=[0, 1, 4]) == 2


@pytest.mark.parametrize(
    ("cgroup", "expected"),
    [
        ({"cpu.max": "200000 100000\n"}, 2),
        ({"cpu.max": "150000 100000\n"}, 2),
        ({"cpu.max": "10000 100000\n"}, 1),
        ({"cpu.max": "max 100000\n"}, 8),
        ({"cpu/cpu.cfs_quota_us": "300000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 3),
        ({"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, 8),
    ],
)
def test_a_quota_limits_them(machine, cgroup, expected):
    assert machine([(0, core) for core in range(8)], cgroup=cgroup) == expected


def test_without_the_kernels_files_every_cpu_counts(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1, 5}, raising=False)
    assert threads.physical_cores(tmp_path) == 3
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "cpu_count", lambda: 7)
    assert threads.physical_cores(tmp_path) == 7


def test_threads_are_lowered_only_and_never_against_the_environment(monkeypatch):
    for name in threads.VARIABLES:
        monkeypatch.delenv(name, raising=False)
    count = [8]
    monkeypatch.setattr(torch, "get_num_threads", lambda: count[0])
    monkeypatch.setattr(torch, "set_num_threads", lambda number: count.__setitem__(0, number))
    monkeypatch.setattr(threads, "physical_cores", lambda: 4)
    assert threads.use_physical_cores() == 4
    count[0] = 1
    assert threads.use_physical_cores() == 1
    count[0] = 8
    monkeypatch.setenv("OMP_NUM_THREADS", "8")
    assert threads.use_physical_cores() == 8
