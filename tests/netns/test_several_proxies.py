"""Several real proxies, killed one after the other under load: while one lives, no program sees an error.

host: a steady load, `proxyvpn up` ---- mid: two squids, tinyproxy, haproxy in front of the squids ---- world: echo
"""

from __future__ import annotations

import contextlib
import json
import signal
import time
from collections.abc import Iterator
from typing import Any

import pytest

from tests.netns import clients, proxies, wait
from tests.netns.internet import Internet
from tests.netns.namespaces import end
from tests.netns.peer import ECHO
from tests.netns.proxies import HAPROXY, SECOND_SQUID, SQUID, TINYPROXY, RunningProxy
from tests.netns.rig import MID4, RESOLVER4, WORLD4, Rig
from tests.netns.steady import Steady, steady
from tests.netns.up import LONG, counters, proxyvpn, up

pytestmark = pytest.mark.privileged

WAYS = ("order", "round-robin", "least-connections", "destination")
A_DELAY = 0.25
"""Seconds that a proxy is given alone (rust/race.rs), and what this machine may take for the rest."""
SLACK = 0.5


def upstreams(bed: Rig) -> dict[int, dict[str, Any]]:
    """Give what `status --json` says of each proxy, by its port."""
    found = json.loads(proxyvpn(bed.host, "status", "--json").stdout)["upstreams"]
    return {int(each["address"].rpartition(":")[2]): each for each in found}


def wait_for_state(bed: Rig, port: int, *states: str, seconds: float = 20) -> None:
    wait.until(lambda: upstreams(bed)[port]["state"] in states, f"proxy {port} is {states}", seconds)


def urls(*ports: int) -> list[str]:
    """Give the options that name these proxies."""
    return [word for port in ports for word in ("--proxy", f"http://{MID4}:{port}")]


def go_on(load: Steady, connects: int) -> None:
    """Wait until so many more connections have been opened."""
    target = load.opened + connects
    wait.until(lambda: load.opened >= target or load.failed, f"{connects} more connects", 30)


def assert_nobody_noticed(load: Steady, killed: int) -> None:
    """Every connect succeeded, and none took long; only what was open through the killed ones may have broken."""
    assert load.failed == []
    assert max(load.waits) < A_DELAY + SLACK, sorted(load.waits)[-5:]
    assert len(load.broken) <= killed * 2 * 8, load.broken


@contextlib.contextmanager
def killable(bed: Rig, port: int) -> Iterator[RunningProxy]:
    with proxies.squid(bed.mid, port=port) as squid:
        yield squid


@pytest.mark.parametrize("way", WAYS)
def test_squids_that_are_killed_and_return_under_load_are_seen_by_nobody(bed: Rig, world: Internet, way: str) -> None:
    options = [*urls(SQUID, SECOND_SQUID), "--balance", way, "--dns", RESOLVER4]
    with (
        killable(bed, SQUID) as first,
        killable(bed, SECOND_SQUID) as second,
        contextlib.ExitStack() as later,
        up(bed.host, *options) as running,
    ):
        with steady(bed.host) as load:
            go_on(load, 100)
            end(first.process, signal.SIGKILL)
            go_on(load, 200)
            wait_for_state(bed, SQUID, "down")
            later.enter_context(killable(bed, SQUID))
            wait_for_state(bed, SQUID, "slow start")
            go_on(load, 100)
            end(second.process, signal.SIGKILL)
            go_on(load, 200)
            wait_for_state(bed, SECOND_SQUID, "down")
        assert_nobody_noticed(load, killed=2)
        found = upstreams(bed)
        assert found[SQUID]["counters"]["opened"] > 0 and found[SECOND_SQUID]["counters"]["opened"] > 0
        assert found[SQUID]["counters"]["downs"] >= 1
        assert f"the proxy {MID4}:{SQUID} is down" in running.said() and "is back" in running.said()
        text = proxyvpn(bed.host, "status").stdout
        assert f"{MID4}:{SQUID}" in text and f"{MID4}:{SECOND_SQUID}" in text


def test_connects_are_shared_out_among_three_proxies_of_two_kinds(bed: Rig, world: Internet) -> None:
    ports = (SQUID, SECOND_SQUID, TINYPROXY)
    options = [*urls(*ports), "--balance", "round-robin", "--dns", RESOLVER4]
    with killable(bed, SQUID), killable(bed, SECOND_SQUID), proxies.tinyproxy(bed.mid), up(bed.host, *options):
        with steady(bed.host) as load:
            go_on(load, 300)
        assert_nobody_noticed(load, killed=0)
        opened = [upstreams(bed)[port]["counters"]["opened"] for port in ports]
        assert min(opened) >= max(opened) - 3, opened


def test_haproxy_in_front_of_squids_and_a_tinyproxy_behind_it_for_the_worst(bed: Rig, world: Internet) -> None:
    options = [*urls(HAPROXY, TINYPROXY), "--dns", RESOLVER4]
    with (
        killable(bed, SQUID) as first,
        killable(bed, SECOND_SQUID) as second,
        proxies.haproxy(bed.mid, SQUID, SECOND_SQUID) as front,
        proxies.tinyproxy(bed.mid),
        up(bed.host, *options),
        steady(bed.host) as load,
    ):
        go_on(load, 50)
        end(first.process, signal.SIGKILL)
        go_on(load, 100)
        assert upstreams(bed)[TINYPROXY]["counters"]["connects"] <= 8, "haproxy has another squid"
        end(second.process, signal.SIGKILL)
        go_on(load, 100)
        assert upstreams(bed)[TINYPROXY]["counters"]["opened"] >= 80, "haproxy has nobody any more"
        end(front.process, signal.SIGKILL)
        go_on(load, 100)
        load.stop()
        assert load.failed == []
        assert max(load.waits) < 4, "haproxy asks a dead squid three times, a second apart"


@contextlib.contextmanager
def swallowed(bed: Rig, port: int) -> Iterator[None]:
    """Let all packets to a port of `mid` vanish."""
    chain = f"type filter hook prerouting priority -400; tcp dport {port} drop;"
    bed.mid.sh(f"nft 'table inet hole {{ chain first {{ {chain} }}; }}'")
    try:
        yield
    finally:
        bed.mid.sh("nft delete table inet hole")


@pytest.mark.parametrize("way", WAYS if LONG else ("order", "least-connections"))
def test_proxy_that_swallows_packets_costs_a_program_one_short_delay(bed: Rig, world: Internet, way: str) -> None:
    options = [*urls(SQUID, SECOND_SQUID), "--balance", way, "--dns", RESOLVER4]
    with killable(bed, SQUID), killable(bed, SECOND_SQUID), up(bed.host, *options):
        with swallowed(bed, SQUID):
            waits = [clients_wait(bed) for _ in range(30)]
            assert sum(seconds > 0.1 for seconds in waits) <= 1 and max(waits) < A_DELAY + SLACK, waits
            wait_for_state(bed, SQUID, "down")
            with steady(bed.host) as load:
                go_on(load, 200)
            assert_nobody_noticed(load, killed=0)
            assert max(load.waits) < A_DELAY, "it is known to be down"
        wait_for_state(bed, SQUID, "probation", seconds=45)
        with steady(bed.host) as load:
            wait_for_state(bed, SQUID, "slow start", "up")
        assert load.failed == []


def clients_wait(bed: Rig) -> float:
    """Give the seconds that a connect takes."""
    begun = time.monotonic()
    bed.host.connect(WORLD4, ECHO).close()
    return time.monotonic() - begun


def test_first_proxy_that_is_slow_to_accept_may_still_win_and_is_cleared(bed: Rig, world: Internet) -> None:
    """The kernels repeat their SYNs after a second: the one that was sent first is the first to be repeated."""
    both = (proxies.SCRIPTED, proxies.SCRIPTED + 1)
    with (
        proxies.scripted(bed.mid, port=both[0]) as first,
        proxies.scripted(bed.mid, port=both[1]) as second,
        up(bed.host, *urls(*both), "--dns", RESOLVER4),
    ):
        with bed.host.new_socket() as sock:
            with swallowed(bed, both[0]):
                bed.mid.sh(f"nft add rule inet hole first tcp dport {both[1]} drop")
                sock.setblocking(False)
                sock.connect_ex((WORLD4, ECHO))
                wait.until(lambda: counters(bed.host)["proxy_races"], "the second is dialled, too")
                assert upstreams(bed)[both[0]]["state"] == "suspected"
            sock.settimeout(10)
            wait.until(lambda: len(first.requests) + len(second.requests), "one is asked")
            assert clients.echoes(sock)
        assert (len(first.requests), len(second.requests)) == (1, 0)
        wait_for_state(bed, both[0], "up")
        found = counters(bed.host)
        assert (found["proxies_lost"], found["flows_opened"]) == (0, 1)


def test_name_with_two_addresses_uses_both(bed: Rig, world: Internet) -> None:
    bed.host.resolv_conf.write_text(f"nameserver {RESOLVER4}\n")
    options = ("--proxy", f"http://proxy.test:{SQUID}", "--balance", "round-robin")
    with killable(bed, SQUID), up(bed.host, *options):
        for _ in range(10):
            clients_wait(bed)
        found = json.loads(proxyvpn(bed.host, "status", "--json").stdout)["upstreams"]
        assert [each["counters"]["opened"] for each in found] == [5, 5]
        assert {each["proxy"] for each in found} == {f"http://proxy.test:{SQUID}"}


def test_refusal_by_policy_stands_unless_the_user_wants_another_answer(bed: Rig, world: Internet) -> None:
    both = (proxies.SCRIPTED, proxies.SCRIPTED + 1)
    no = b"HTTP/1.1 403 Forbidden\r\n\r\n"
    with (
        proxies.scripted(bed.mid, lambda _head: no, port=both[0]),
        proxies.scripted(bed.mid, port=both[1]) as second,
    ):
        with up(bed.host, *urls(*both), "--dns", RESOLVER4):
            assert clients.connect_error(bed.host, WORLD4, ECHO)
            assert second.requests == []
        with up(bed.host, *urls(*both), "--failover-on-refusal", "--dns", RESOLVER4):
            assert not clients.connect_error(bed.host, WORLD4, ECHO)
            assert len(second.requests) == 1


def test_squid_that_hangs_is_found_by_a_check_that_the_user_named(bed: Rig, world: Internet) -> None:
    options = [*urls(SQUID, SECOND_SQUID), "--health-check", f"{WORLD4}:{ECHO}", "--dns", RESOLVER4]
    with killable(bed, SQUID) as first, killable(bed, SECOND_SQUID), up(bed.host, *options):
        first.process.send_signal(signal.SIGSTOP)
        try:
            seconds = clients_wait(bed)
            assert seconds < 20, "sooner than by the time-out for an answer"
            assert upstreams(bed)[SQUID]["state"] == "down"
            assert max(clients_wait(bed) for _ in range(10)) < A_DELAY
        finally:
            first.process.send_signal(signal.SIGCONT)
        wait_for_state(bed, SQUID, "slow start", seconds=60)
