"""What is put back, what is said, and how often: with a fake kernel and a clock that a test turns."""

from __future__ import annotations

from ipaddress import ip_address

import pytest
from tests.unit.fake_kernel import FakeKernel
from tests.unit.test_plan import a_tunnel

from proxyvpn import plan
from proxyvpn.plan import Connection, Firewall, Host, Rule
from proxyvpn.upkeep import MOST, PAUSE, QUIET, WINDOW, Patience, Upkeep
from proxyvpn.watch import News

HOST4 = ip_address("192.0.2.1")
TUNNEL, HOST = a_tunnel(killswitch=True), Host("pvpn0", True)
FLUSHED = News(firewall=True, by="nft")


class Bench:
    """An engaged tunnel in a fake kernel, and its upkeep."""

    def __init__(self) -> None:
        self.kernel = FakeKernel()
        self.kernel.claim()
        self.said: list[str] = []
        self.now = 1000.0
        for step in plan.steps(TUNNEL, HOST):
            self.kernel.add(step)
        self.upkeep = Upkeep(self.kernel, self.said.append, lambda: self.now)
        self.upkeep.begin(TUNNEL, HOST)
        self.upkeep.look()

    def flush(self) -> None:
        self.kernel.held = [step for step in self.kernel.held if not isinstance(step, Firewall)]
        self.kernel.tell(FLUSHED)
        self.upkeep.look()


@pytest.fixture
def bench() -> Bench:
    return Bench()


def test_nothing_is_done_when_nothing_is_missing(bench: Bench) -> None:
    bench.kernel.tell(News(firewall=True, routes=True))
    bench.upkeep.look()
    assert (bench.said, bench.kernel.restored, bench.upkeep.due()) == ([], [], None)


def test_flushed_firewall_is_put_back_with_those_that_came_in(bench: Bench) -> None:
    bench.kernel.connections = (Connection(HOST4, 22, HOST4, 50022),)
    bench.flush()
    assert bench.kernel.locked()
    back = bench.kernel.restored[0]
    assert isinstance(back, Firewall) and back.host.earlier == bench.kernel.connections
    assert len(bench.said) == 1 and "removed by `nft` and is put back" in bench.said[0]


def test_missing_rule_is_put_back(bench: Bench) -> None:
    gone = next(step for step in bench.kernel.held if isinstance(step, Rule))
    bench.kernel.held.remove(gone)
    bench.kernel.tell(News(routes=True))
    bench.upkeep.look()
    assert bench.kernel.restored == [gone]
    assert gone.line in bench.said[0]


def test_own_change_is_no_reason_to_mend(bench: Bench) -> None:
    wanted = a_tunnel(resolvers=())
    bench.kernel.update(wanted, HOST)
    bench.kernel.tell(FLUSHED)
    bench.upkeep.begin(wanted, HOST)
    bench.upkeep.look()
    assert not [step for step in bench.kernel.restored if isinstance(step, Firewall)]


def test_fight_is_slow_and_said_once_a_minute(bench: Bench) -> None:
    for _ in range(MOST):
        bench.flush()
    assert len(bench.said) == MOST
    bench.flush()
    assert not bench.kernel.locked()
    assert bench.upkeep.due() == pytest.approx(PAUSE)
    bench.now += PAUSE
    bench.upkeep.look()
    assert bench.kernel.locked()
    assert len(bench.said) <= MOST + 1
    assert "again and again" in bench.upkeep.notes()[0]
    bench.now += QUIET
    assert bench.upkeep.notes() == ()


def test_what_cannot_be_put_back_is_a_note_until_it_can(bench: Bench) -> None:
    bench.kernel.refuse_next()
    bench.flush()
    assert "cannot be put back" in bench.said[-1] and "cannot be put back" in bench.upkeep.notes()[0]
    assert bench.upkeep.due() is not None
    bench.now += PAUSE
    bench.upkeep.look()
    assert bench.kernel.locked() and bench.upkeep.notes() == ()


def test_without_news_it_looks_once_a_second(bench: Bench) -> None:
    bench.kernel.watched = False
    bench.upkeep.begin(TUNNEL, HOST)
    bench.upkeep.look()
    assert bench.upkeep.due() == pytest.approx(PAUSE)
    bench.kernel.held = [step for step in bench.kernel.held if not isinstance(step, Firewall)]
    bench.now += PAUSE
    bench.upkeep.look()
    assert bench.kernel.locked()


def test_changed_default_route_is_said_once(bench: Bench) -> None:
    bench.kernel.default_routes = ("IPv4 by wlan0",)
    for _ in range(2):
        bench.kernel.tell(News(uplink=True))
        bench.upkeep.look()
    assert bench.said == ["proxyvpn: the default route is now IPv4 by wlan0; the tunnel follows it"]


def test_after_the_end_nothing_is_put_back(bench: Bench) -> None:
    bench.upkeep.end()
    bench.flush()
    assert not bench.kernel.locked() and bench.upkeep.due() is None


def test_patience_comes_back_after_the_window() -> None:
    patience = Patience()
    for _ in range(MOST):
        assert patience.wait(5.0) == 0
        patience.repaired(5.0)
    assert patience.wait(5.0) == PAUSE
    assert patience.wait(5.0 + WINDOW) == 0
