"""The leak matrix: every kind of packet in every phase of a tunnel's life, offered and counted on the wire.

box: leak_offer.py ---- host: leak_offer.py, `proxyvpn up` ---- [counters] mid: proxy ---- world: peer.py

PROXYVPN_LEAK_PACKETS is how many packets each row offers in each phase; scripts/leak-test.sh prints the same tables.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import pytest

from tests.netns.internet import Internet
from tests.netns.leak_matrix import Bench, bench, leaks
from tests.netns.leak_phases import PHASES, direct_again, happening, killing
from tests.netns.leak_rows import ROWS
from tests.netns.leak_table import record
from tests.netns.rig import Rig
from tests.netns.test_fallbacks import HIDDEN, hiding

pytestmark = pytest.mark.privileged

EVERYTHING: Final = frozenset(row.name for row in ROWS)
NOT_CAPTURED: Final = frozenset(row.name for row in ROWS if not row.captured)
_BOUND_TO_NOTHING: Final = ("UDP, IPv", "QUIC", "DNS to others")
"""TCP is not among them, since a connect() from before `up` repeats its SYN from the address it had; fresh ones are
counted in test_upkeep.py."""
MAY_LEAK: Final = {
    "nft flush ruleset": frozenset(name for name in EVERYTHING if not name.startswith(_BOUND_TO_NOTHING)),
}
"""What is not promised with the killswitch on, by phase (docs/security.md, known limits). Only ever tightened."""
IPTABLES: Final = {"iptables, legacy": ("iptables-legacy",), "iptables over nf_tables": ("iptables",)}
FEW: Final = ("during up", "resolvers replaced", "all killed", "up after a crash", "during down")


@pytest.fixture(scope="module")
def hammered(bed: Rig, world: Internet) -> Iterator[Bench]:
    """A test bed where every row is being offered."""
    with bench(bed) as found:
        yield found


@pytest.fixture(scope="module", params=IPTABLES)
def by_iptables(request: pytest.FixtureRequest, hammered: Bench) -> Iterator[Bench]:
    """The same with a tunnel that finds no nftables, and a quarter of the packets."""
    packets = hammered.packets
    hammered.before, hammered.ways = hiding(HIDDEN[request.param]), IPTABLES[request.param]
    hammered.packets = packets // 4
    yield hammered
    hammered.before, hammered.ways, hammered.packets = (), (), packets


@pytest.mark.parametrize("phase", PHASES)
def test_killswitch_lets_nothing_out(hammered: Bench, phase: str) -> None:
    hammered.killswitch = True
    cells = PHASES[phase](hammered)
    record("killswitch on", phase, cells)
    assert leaks(cells, MAY_LEAK.get(phase, frozenset())) == {}


@pytest.mark.parametrize("phase", ["steady", "resolvers replaced", "worker killed"])
def test_tcp_does_not_leak_without_the_killswitch(hammered: Bench, phase: str) -> None:
    hammered.killswitch = False
    cells = PHASES[phase](hammered)
    record("killswitch off", phase, cells)
    assert leaks(cells, NOT_CAPTURED) == {}


@pytest.mark.parametrize("killed", [("helper",), ("app",), ("helper", "worker", "app")])
def test_everything_goes_directly_after_a_crash_without_the_killswitch(
    hammered: Bench, killed: tuple[str, ...]
) -> None:
    hammered.killswitch = False
    cells = happening(direct_again(killing(*killed)))(hammered)
    record("killswitch off", f"{'all' if len(killed) > 1 else killed[0]} killed", cells)


@pytest.mark.parametrize("phase", FEW)
def test_killswitch_lets_nothing_out_by_iptables(by_iptables: Bench, phase: str) -> None:
    by_iptables.killswitch = True
    cells = PHASES[phase](by_iptables)
    record(f"{by_iptables.ways[0]}, killswitch on", phase, cells)
    assert leaks(cells) == {}


def test_tcp_does_not_leak_by_iptables_without_the_killswitch(by_iptables: Bench) -> None:
    by_iptables.killswitch = False
    cells = PHASES["steady"](by_iptables)
    record(f"{by_iptables.ways[0]}, killswitch off", "steady", cells)
    assert leaks(cells, NOT_CAPTURED) == {}


def test_everything_goes_directly_after_a_crash_by_iptables(by_iptables: Bench) -> None:
    by_iptables.killswitch = False
    cells = happening(direct_again(killing("helper", "worker", "app")))(by_iptables)
    record(f"{by_iptables.ways[0]}, killswitch off", "all killed", cells)
