"""The leak matrix for DNS that the worker answers, by mode; and for programs that are excluded: only they pass.

box: leak_offer.py ---- host: leak_offer.py, `proxyvpn up` ---- [counters] mid: proxy ---- world: peer.py
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import pytest

from tests.netns import leak_names
from tests.netns.internet import Internet
from tests.netns.leak_matrix import Bench, bench, leaks, least
from tests.netns.leak_phases import PHASES
from tests.netns.leak_rows import PLAIN_UID
from tests.netns.leak_table import record
from tests.netns.rig import RESOLVER4, Rig
from tests.netns.test_fallbacks import HIDDEN, hiding

pytestmark = pytest.mark.privileged

MODES: Final = {"virtual": ("--names", "virtual"), "proxy": ("--names", "proxy", "--dns", RESOLVER4)}
NOT_CAPTURED: Final = frozenset(row.name for row in leak_names.ROWS if not row.captured)
FLUSHED: Final = (
    *("SO_BINDTODEVICE", "IP_UNICAST_IF", "source bound", "socket from before", "raw"),
    *("over T", "container", "TCP"),
)
"""What may leave until a flushed ruleset is back: what is bound, or forwarded, or a connect() from before."""
CASES: Final = (
    *(("virtual", phase) for phase in ("during up", "steady", "worker killed", "all killed", "nft flush ruleset")),
    *(("virtual", phase) for phase in ("TUN set down", "during down")),
    ("proxy", "steady"),
)


@pytest.fixture(scope="module")
def hammered(bed: Rig, world: Internet) -> Iterator[Bench]:
    """A test bed where every row is being offered; nobody may be asked directly."""
    with bench(bed, leak_names.ROWS, resolvers=False) as found:
        found.packets //= 2
        yield found


def prepare(bench: Bench, mode: str, killswitch: bool, way: str = "") -> None:
    """Let the next tunnel of the bench be this one."""
    bench.killswitch, bench.more = killswitch, MODES[mode]
    bench.before = hiding(HIDDEN[way]) if way else ()


@pytest.mark.parametrize(("mode", "phase"), CASES)
def test_no_question_leaves_with_the_killswitch(hammered: Bench, mode: str, phase: str) -> None:
    prepare(hammered, mode, killswitch=True)
    cells = PHASES[phase](hammered)
    record(f"names {mode}, killswitch on", phase, cells)
    names = {name for name in cells if any(part in name for part in FLUSHED)}
    assert leaks(cells, frozenset(names) if phase == "nft flush ruleset" else frozenset()) == {}


@pytest.mark.parametrize(("mode", "phase"), [("virtual", "steady"), ("virtual", "worker killed"), ("proxy", "steady")])
def test_no_question_leaves_without_the_killswitch(hammered: Bench, mode: str, phase: str) -> None:
    prepare(hammered, mode, killswitch=False)
    cells = PHASES[phase](hammered)
    record(f"names {mode}, killswitch off", phase, cells)
    assert leaks(cells, NOT_CAPTURED) == {}


@pytest.mark.parametrize("killswitch", [True, False], ids=["closed", "open"])
def test_no_question_leaves_by_iptables(hammered: Bench, killswitch: bool) -> None:
    prepare(hammered, "virtual", killswitch, "iptables, legacy")
    cells = PHASES["steady"](hammered)
    record(f"iptables-legacy, names virtual, killswitch {'on' if killswitch else 'off'}", "steady", cells)
    assert leaks(cells, frozenset() if killswitch else NOT_CAPTURED) == {}


@pytest.mark.parametrize("mode", MODES)
def test_only_the_excluded_user_passes_with_the_killswitch(hammered: Bench, mode: str) -> None:
    prepare(hammered, mode, killswitch=True)
    hammered.more = (*hammered.more, "--exclude-user", str(PLAIN_UID))
    cells = PHASES["steady"](hammered)
    record(f"names {mode}, killswitch on, one user excluded", "steady", cells)
    theirs = {row.name for row in leak_names.ROWS if row.space == "host" and not row.root}
    virtual = {name for name in theirs if "virtual address" in name}
    assert leaks(cells, frozenset(theirs - virtual)) == {}
    rows = {row.name: row for row in leak_names.ROWS}
    kept = {name: cells[name] for name in theirs - virtual if cells[name].leaked < least(rows[name], cells[name])}
    assert kept == {}, "they are left alone"
