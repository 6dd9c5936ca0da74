"""Ten thousand flows that all move bytes, and a great many connects: all carried or refused, everything given back.

host: sockets of the test, `proxyvpn up` ---- mid: squid, or a proxy that echoes ---- world: echo, at 250 addresses
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.netns import proxies, wait
from tests.netns.internet import Internet, echoing_proxy
from tests.netns.load import Crowd, Target, many_descriptors
from tests.netns.peer import ECHO
from tests.netns.rig import MANY, RESOLVER4, WORLD6, Rig, memory, open_fds
from tests.netns.storm import storm
from tests.netns.up import Up, at_rest, refused, up

pytestmark = pytest.mark.privileged

AT_ONCE = 10_000
SHORT = 100_000
BLOCKS = 8
"""Of 4 KiB, back and forth over each of the flows."""
ATTEMPTED, PER_SECOND = 100_000, 20_000


def targets(count: int) -> Iterator[Target]:
    """Give `count` addresses of the echo server, all of them in turn, each tenth by IPv6."""
    for number in range(count):
        yield (WORLD6 if number % 10 == 9 else f"{MANY}{number % 250 + 1}", ECHO)


@pytest.mark.timeout(180)
def test_ten_thousand_flows_at_once(bed: Rig) -> None:
    with many_descriptors(), echoing_proxy(bed.mid) as url, up(bed.host, "--proxy", url, "--dns", RESOLVER4) as running:
        open_and_close_at_once(bed, running.worker)


def open_and_close_at_once(bed: Rig, worker: int) -> None:
    """Open all flows, use each of them again while all are open, then all of them at the same time; close them."""
    base_fds = open_fds(worker)
    crowd = Crowd(bed.host, at_once=500)
    first = crowd.run(targets(AT_ONCE), keep=True, seconds=90)
    assert (first.echoed, first.failed) == (AT_ONCE, {})
    assert open_fds(worker) >= AT_ONCE
    crowd.at_once = AT_ONCE
    second = crowd.again(seconds=60)
    assert (second.echoed, second.failed) == (AT_ONCE, {})
    third = crowd.exchange(BLOCKS, seconds=90)
    assert (third.echoed, third.failed) == (AT_ONCE, {})
    crowd.close()
    wait.until(lambda: open_fds(worker) <= base_fds + SPARE, "the worker gives its descriptors back", 30)


SPARE = 64
"""Descriptors that a pool of warm connections may hold."""


@pytest.mark.timeout(600)
def test_short_connections_give_everything_back(bed: Rig, world: Internet, squid: proxies.RunningProxy) -> None:
    with many_descriptors(), up(bed.host, "--proxy", squid.url4, "--dns", RESOLVER4) as running:
        open_one_after_another(bed, running)


def open_one_after_another(bed: Rig, tunnel: Up) -> None:
    """Open and close a great many flows, and compare the worker before and after."""
    warm = Crowd(bed.host, at_once=100)
    assert warm.run(targets(2_000), keep=False, seconds=60).failed == {}
    warm.close()
    wait.until(lambda: open_fds(tunnel.worker) <= 100, "the worker is at rest", 30)
    base_fds, base_memory, worker = open_fds(tunnel.worker), memory(tunnel.worker), tunnel.worker
    crowd = Crowd(bed.host, at_once=100)
    outcome = crowd.run(targets(SHORT), keep=False, seconds=500)
    crowd.close()
    assert (outcome.echoed, outcome.failed) == (SHORT, {})
    wait.until(lambda: open_fds(worker) <= base_fds + SPARE, "the worker gives its descriptors back", 30)
    assert tunnel.worker == worker
    assert memory(worker) <= base_memory + 8 * 2**20


@pytest.mark.timeout(120)
def test_twenty_thousand_connects_a_second_are_carried_or_refused(bed: Rig) -> None:
    with many_descriptors(), echoing_proxy(bed.mid) as url, up(bed.host, "--proxy", url, "--dns", RESOLVER4) as running:
        attempt_more_than_can_be_carried(bed, running)


def attempt_more_than_can_be_carried(bed: Rig, tunnel: Up) -> None:
    """Connect faster than anyone can follow; every connect has an answer that the counters know of, in the end."""
    worker, base_fds = tunnel.worker, open_fds(tunnel.worker)
    with storm(bed.host, at_once=8_000) as attempts:
        attempts.blow(targets(ATTEMPTED), PER_SECOND)
        found = attempts.calm(seconds=10)
    assert (found.total, found.failed) == (ATTEMPTED, {})
    assert found.carried > 0
    count = at_rest(bed.host, 60)
    assert count["flows_opened"] >= found.carried and refused(count) >= found.refused
    wait.until(lambda: open_fds(worker) <= base_fds + SPARE, "the worker gives its descriptors back", 30)
    assert tunnel.worker == worker
