"""One test bed for each test file, with all servers of the internet running; what was measured is told at the end.

Files may run side by side (pytest-xdist): each test makes all the namespaces that it needs.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.netns import internet as servers
from tests.netns import proxies
from tests.netns.leak_matrix import Cell
from tests.netns.leak_table import MEASURED, record, table
from tests.netns.rig import Rig, rig
from tests.netns.up import READY_AFTER


@pytest.fixture(scope="module")
def bed() -> Iterator[Rig]:
    """The four namespaces (rig.py has the drawing)."""
    with rig() as found:
        yield found


@pytest.fixture(scope="module")
def world(bed: Rig) -> Iterator[servers.Internet]:
    """The servers of the internet."""
    with servers.internet(bed.world) as found:
        yield found


@pytest.fixture(scope="module")
def squid(bed: Rig) -> Iterator[proxies.RunningProxy]:
    """A real squid that lets everything through."""
    with proxies.squid(bed.mid) as found:
        yield found


@pytest.fixture
def fresh() -> Iterator[Rig]:
    """A test bed for one test alone, for those that may leave `host` in ruins."""
    with rig() as found:
        yield found


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Hand over what was measured beside others."""
    output: dict[str, Any] | None = getattr(session.config, "workeroutput", None)
    if output is not None:
        output["ready"] = READY_AFTER
        output["leaks"] = [
            (title, phase, row, cell.offered, cell.leaked)
            for title, columns in MEASURED.items()
            for phase, cells in columns.items()
            for row, cell in cells.items()
        ]


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """Take what was measured beside others."""
    output: dict[str, Any] = getattr(node, "workeroutput", {})
    READY_AFTER.extend((seconds, where) for seconds, where in output.get("ready", []))
    columns: dict[tuple[str, str], dict[str, Cell]] = {}
    for title, phase, row, offered, leaked in output.get("leaks", []):
        columns.setdefault((title, phase), {})[row] = Cell(offered, leaked)
    for (title, phase), cells in columns.items():
        record(title, phase, cells)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say how long `up` took to be ready; the aim is half a second."""
    if READY_AFTER:
        times = sorted(READY_AFTER)
        median, (longest, where) = times[len(times) // 2][0], times[-1]
        terminalreporter.write_line(
            f"up was ready after {median:.2f} s (median of {len(times)}; at most {longest:.2f} s, in {where})"
        )
    for title, columns in MEASURED.items():
        terminalreporter.write_line("")
        terminalreporter.write_line(table(title, columns))
