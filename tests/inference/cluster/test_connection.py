"""Why: a cluster without room for a worker must be refused, not waited for, and a missing Ray named with its extra."""

import sys
from types import SimpleNamespace

import pytest

from cfsam_hf.inference.cluster.connection import ClusterOptions, connected, require_ray, worker_size


def cluster_of(*machines):
    """Stands in for Ray: CPUs and GPUs of each machine; a machine of None is lost."""
    nodes = [
        {"Alive": machine is not None, "Resources": dict(zip(("CPU", "GPU"), machine or (8, 8), strict=False))}
        for machine in machines
    ]
    return SimpleNamespace(nodes=lambda: nodes)


@pytest.mark.parametrize(
    ("machines", "options", "expected"),
    [
        ([(8,), (5,)], {}, (6, 2, 0)),
        ([(8, 2), (8, 0)], {}, (2, 2, 1)),
        ([(8, 2)], {"gpus_per_worker": 0.5}, (4, 2, 0.5)),
        ([(64, 1)], {"gpus_per_worker": 0.1}, (10, 2, 0.1)),
        ([(8, 2)], {"gpus_per_worker": 0, "cpus_per_worker": 4}, (2, 4, 0)),
        ([(8,), None], {"cpus_per_worker": 8}, (1, 8, 0)),
        ([(1,)], {"workers": 3}, (3, 2, 0)),
        ([(1,)], {}, (1, 1, 0)),
    ],
)
def test_workers_fill_the_machines_unless_their_number_is_given(machines, options, expected):
    size = worker_size(cluster_of(*machines), ClusterOptions(**options))
    assert (size.count, size.cpus, size.gpus) == expected
    assert size.device == ("cuda" if expected[2] else "cpu")


def test_a_cluster_without_room_is_refused_with_its_size():
    with pytest.raises(ValueError, match="worker of 4 CPUs and 0 GPUs; the largest has 2 CPUs"):
        worker_size(cluster_of((2,), (1,)), ClusterOptions(cpus_per_worker=4))


@pytest.mark.parametrize("wrong", [{"workers": 0}, {"cpus_per_worker": 0}, {"gpus_per_worker": 1.5}])
def test_impossible_sizes_are_refused(wrong):
    with pytest.raises(ValueError, match=str(next(iter(wrong.values())))):
        ClusterOptions(**wrong)


def test_without_ray_a_sentence_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ImportError, match=r"cfsam_hf\[cluster\]"):
        require_ray()
    with pytest.raises(ImportError, match="cluster"), connected(ClusterOptions()):
        pass
