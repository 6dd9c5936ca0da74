"""A program of `host` sends SYNs to a hundred thousand destinations, and the proxy carries none of them.

host: sockets of the test, `proxyvpn up` ---- mid: a proxy that answers nothing, or does not even accept

What a flood may cost is descriptors and a little memory, until the time-outs; flows that are open go on, and nothing
answers a SYN more than once.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import pytest

from tests.netns import wait
from tests.netns.internet import echoing_proxy
from tests.netns.load import Crowd, Target, many_descriptors
from tests.netns.namespaces import Namespace
from tests.netns.peer import CONNECT, ECHO, SILENT
from tests.netns.rig import RESOLVER4, Rig, memory, open_fds
from tests.netns.storm import storm
from tests.netns.up import Up, at_rest, counters, refused, up

pytestmark = pytest.mark.privileged

DESTINATIONS, TURNS = 100_000, 10
OTHERS = 20
MIB = 1 << 20


def destinations(turn: int, port: int) -> Iterator[Target]:
    """Give the addresses of one turn of the flood, none of which comes in another turn."""
    each = DESTINATIONS // TURNS
    for number in range(turn * each, (turn + 1) * each):
        yield (f"100.{64 + (number >> 16)}.{number >> 8 & 255}.{number & 255}", port)


@contextlib.contextmanager
def deaf(mid: Namespace) -> Iterator[None]:
    """Drop the SYNs to the proxy, as a kernel does whose queue of connections to accept is full."""
    syn = f"tcp dport {CONNECT} tcp flags & (syn | ack) == syn drop"
    mid.sh(f"nft 'table inet deaf {{ chain input {{ type filter hook input priority 0; {syn}; }}; }}'")
    try:
        yield
    finally:
        mid.sh("nft delete table inet deaf")


@pytest.mark.timeout(180)
def test_flood_that_the_proxy_does_not_answer(bed: Rig) -> None:
    with many_descriptors(), echoing_proxy(bed.mid) as url, up(bed.host, "--proxy", url, "--dns", RESOLVER4) as running:
        flood(bed, running, SILENT, contextlib.nullcontext())


@pytest.mark.timeout(180)
def test_flood_that_the_proxy_does_not_accept(bed: Rig) -> None:
    with many_descriptors(), echoing_proxy(bed.mid) as url, up(bed.host, "--proxy", url, "--dns", RESOLVER4) as running:
        flood(bed, running, ECHO, deaf(bed.mid))


def flood(bed: Rig, tunnel: Up, port: int, meanwhile: contextlib.AbstractContextManager[None]) -> None:
    """Open some flows, flood, and use them meanwhile; compare the worker before and after."""
    worker, others = tunnel.worker, Crowd(bed.host, at_once=OTHERS)
    assert others.run([(f"203.0.113.{one}", ECHO) for one in range(1, OTHERS + 1)], keep=True, seconds=20).failed == {}
    base_fds, base_memory, before = open_fds(worker), memory(worker), counters(bed.host)
    with meanwhile, storm(bed.host, at_once=1_000) as attempts:
        for turn in range(TURNS):
            found = attempts.blow(destinations(turn, port), per_second=1_000_000)
            carried = others.again(seconds=20)
            assert (carried.echoed, carried.failed) == (OTHERS, {})
        assert memory(worker) - base_memory < 64 * MIB
        others.close()
        after = at_rest(bed.host, 90)
    assert (found.total, found.carried, found.failed) == (DESTINATIONS, 0, {})
    assert after["tun_written"] - before["tun_written"] <= after["tun_read"] - before["tun_read"]
    assert after["flows_opened"] == OTHERS and refused(after) > 0
    wait.until(lambda: open_fds(worker) <= base_fds, "the worker gives its descriptors back", 30)
    assert memory(worker) - base_memory < 64 * MIB
    assert tunnel.worker == worker
