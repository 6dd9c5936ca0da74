"""How the benchmark shares its time, and what it reads of processes (bench/run.py, scenarios.py, processes.py)."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from bench import processes
from bench.run import FULL_BUDGET_S, SHORT_BUDGET_S, seconds_each
from bench.scenarios import failures


@pytest.mark.parametrize("short", [False, True])
@pytest.mark.parametrize("loads", [140, 150, 160])
def test_loads_with_their_warming_up_fill_the_budget(short: bool, loads: int) -> None:
    budget = SHORT_BUDGET_S if short else FULL_BUDGET_S
    assert seconds_each(short, loads) * loads * 1.2 == pytest.approx(budget)


def test_load_lasts_neither_too_long_nor_too_short_for_a_figure() -> None:
    assert seconds_each(False, 1) == 3.0
    assert seconds_each(True, 10_000) == 0.3


def test_failures_are_a_figure_only_where_there_were_some() -> None:
    assert failures("rr1", {"failed": 0}) == {}
    assert failures("rr1", {"failed": 2}) == {"rr1_failed": 2}


def test_tree_is_the_process_with_children_and_grandchildren() -> None:
    shell = "sleep 60 & echo $!; read line; kill $!"
    command = [sys.executable, "-c", f"import subprocess; subprocess.run(['sh', '-c', {shell!r}])"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout
        grandchild = int(child.stdout.readline())
        found = processes.tree(child.pid)
        assert found[0] == child.pid
        assert grandchild in found
        assert os.getpid() not in found
        assert processes.memory_kib(child.pid) > processes.memory_kib(grandchild) > 0
        child.communicate("\n")
    assert processes.processor_seconds(child.pid) == processes.memory_kib(child.pid) == 0


def test_processor_time_is_in_seconds_and_counts_children_that_ended() -> None:
    before = processes.processor_seconds(os.getpid())
    subprocess.run([sys.executable, "-c", "while __import__('time').process_time() < 0.06: pass"], check=True)
    spent = processes.processor_seconds(os.getpid()) - before
    assert 0.03 <= spent < 5
