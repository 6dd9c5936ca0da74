"""Where descriptors or memory end: newcomers are refused and counted, the others go on, and room is used again.

host: sockets of the test, `proxyvpn up` with little of something ---- mid: a proxy that is the far end as well
"""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from tests.netns import clients, wait
from tests.netns.internet import echoing_proxy
from tests.netns.load import Crowd, Target, many_descriptors
from tests.netns.peer import ECHO, SOURCE
from tests.netns.rig import MANY, RESOLVER4, WORLD4, Rig, memory, open_fds
from tests.netns.up import Up, at_rest, counters, refused, up

pytestmark = pytest.mark.privileged

MIB = 1 << 20
DESCRIPTORS = 300
ADDRESS_SPACE = 768 * MIB
STALLED, EACH, OTHERS = 1000, 4 * MIB, 20
RINGS, WARM = 400 * MIB, 32 * MIB
"""What a thousand rings to programs may hold (128 of 1 MiB, the rest of 256 KiB); what may be kept of free ones."""
NO_RAISE = ("setpriv", "--bounding-set=-sys_resource", "--inh-caps=-sys_resource")
"""Root may raise its own hard limits, but for this."""


def echo(count: int) -> list[Target]:
    return [(f"{MANY}{number % 250 + 1}", ECHO) for number in range(count)]


def one_queue() -> tuple[str, ...]:
    """Give what makes `up` take one queue, and so one set of rings, on every machine."""
    return ("taskset", "--cpu-list", str(min(os.sched_getaffinity(0))))


def processor_seconds(pid: int) -> float:
    """Give the processor time that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / 100


@pytest.mark.timeout(60)
def test_without_descriptors_newcomers_are_refused_and_the_others_go_on(bed: Rig) -> None:
    few = (*NO_RAISE, "prlimit", f"--nofile={DESCRIPTORS}:{DESCRIPTORS}")
    with (
        many_descriptors(),
        echoing_proxy(bed.mid) as url,
        up(bed.host, "--proxy", url, "--dns", RESOLVER4, before=few) as running,
    ):
        fill(bed, running, "refused_descriptors", DESCRIPTORS * 2, "no socket for a connection")


def fill(bed: Rig, tunnel: Up, reason: str, count: int, line: str) -> int:
    """Try to open `count` flows, more than there is room for; give how many were carried."""
    worker, crowd = tunnel.worker, Crowd(bed.host, at_once=100)
    found = crowd.run(echo(count), keep=True, seconds=30)
    carried = found.echoed
    assert found.failed == {"Connection refused": count - carried} and 0 < carried < count
    seen = counters(bed.host)
    assert seen[reason] == refused(seen) == count - carried
    assert_rests(worker)
    assert (again := crowd.again(seconds=20)).failed == {} and again.echoed == carried
    for sock in crowd.open[:50]:
        sock.close()
    del crowd.open[:50]
    wait.until(lambda: counters(bed.host)["flows_open_now"] <= carried - 50, "room is given back", 30)
    later = Crowd(bed.host, at_once=10)
    assert later.run(echo(40), keep=False, seconds=20).failed == {}
    assert (again := crowd.again(seconds=20)).failed == {} and again.echoed == carried - 50
    for one in (crowd, later):
        one.close()
    assert tunnel.said().count(line) == 1, tunnel.said()
    after = at_rest(bed.host, 60)
    assert after["flows_opened"] == carried + 40
    assert tunnel.worker == worker
    return carried


def assert_rests(pid: int) -> None:
    """See that a process uses next to no processor time for a second."""
    used, end = processor_seconds(pid), time.monotonic() + 1
    wait.until(lambda: time.monotonic() > end, "a second passes")
    assert processor_seconds(pid) - used < 0.2


@pytest.mark.timeout(90)
def test_without_memory_newcomers_are_refused_and_the_others_go_on(bed: Rig) -> None:
    little = (*NO_RAISE, *one_queue(), "prlimit", f"--as={ADDRESS_SPACE}:{ADDRESS_SPACE}")
    with (
        many_descriptors(),
        echoing_proxy(bed.mid) as url,
        up(bed.host, "--proxy", url, "--dns", RESOLVER4, before=little) as running,
    ):
        fill(bed, running, "refused_memory", 5_000, "no buffers for a connection")


@pytest.mark.timeout(90)
def test_thousand_stalled_readers_cost_no_more_than_their_rings(bed: Rig) -> None:
    with (
        many_descriptors(),
        echoing_proxy(bed.mid) as url,
        up(bed.host, "--proxy", url, "--dns", RESOLVER4, before=one_queue()) as running,
    ):
        stall(bed, running)


def stall(bed: Rig, tunnel: Up) -> None:
    """Let programs ask for more than any ring holds and not read it; others go on, and all is given back."""
    worker, others = tunnel.worker, Crowd(bed.host, at_once=OTHERS)
    assert others.run(echo(OTHERS), keep=True, seconds=20).failed == {}
    base_fds, base_memory = open_fds(worker), memory(worker)
    stalled = [bed.host.connect(f"{MANY}{number % 250 + 1}", SOURCE) for number in range(STALLED)]
    for sock in stalled:
        sock.sendall(b"%d\n" % EACH)
    assert (third := others.exchange(50, seconds=30)).failed == {} and third.echoed == OTHERS
    with bed.host.connect(WORLD4, SOURCE) as sock:
        assert clients.download(sock, 16 * MIB) == (16 * MIB, clients.digest_of(16 * MIB))
    wait_for_standstill(bed)
    assert counters(bed.host)["flows_open_now"] == STALLED + OTHERS
    assert memory(worker) - base_memory < RINGS
    assert_rests(worker)
    assert (fourth := others.exchange(50, seconds=30)).failed == {} and fourth.echoed == OTHERS
    assert clients.receive_all(stalled[0]) == (EACH, clients.digest_of(EACH))
    for sock in stalled:
        sock.close()
    others.close()
    after = at_rest(bed.host, 60)
    assert after["flows_opened"] == STALLED + OTHERS + 1
    wait.until(lambda: open_fds(worker) <= base_fds, "the worker gives its descriptors back")
    assert memory(worker) - base_memory < WARM


def wait_for_standstill(bed: Rig) -> None:
    """Wait until no more bytes come down: every ring is full."""
    last = -1

    def is_still() -> bool:
        nonlocal last
        before, last = last, counters(bed.host)["bytes_down"]
        return before == last

    wait.until(is_still, "all readers are stalled", 30)
