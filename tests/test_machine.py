"""What the machine is said to have."""

import os

from unmergeable import machine


def test_it_has_what_a_machine_can_have():
    assert 1 <= machine.cores() <= (os.cpu_count() or 1)
    assert 1 << 20 < machine.available_memory() < machine.total_memory() < 1 << 50
    assert machine.busy() >= 0
    assert machine.processor()


def test_without_affinity_every_processor_counts(monkeypatch):
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    assert machine.cores() == os.cpu_count()
