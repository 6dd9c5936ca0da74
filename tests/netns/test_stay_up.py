"""A tunnel that stays up: a dead worker, a stopped machine, a proxy whose name moves.

host: `proxyvpn up` ---- [tcpdump] mid: squid at .1, .8 and .9 ---- world: nginx, peer.py
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator

import pytest

from tests.netns import clients, internet, proxies, wait
from tests.netns.dumps import difference, dump
from tests.netns.peer import ECHO
from tests.netns.rig import RESOLVER4, WORLD4, WORLD6, Rig, detector, leak_filter
from tests.netns.up import kill, up

pytestmark = pytest.mark.privileged

BOTH = pytest.mark.parametrize("killswitch", ["--killswitch", "--no-killswitch"])
FIRST, SECOND = "10.71.0.8", "10.71.0.9"


@pytest.fixture
def proxy(fresh: Rig) -> Iterator[proxies.RunningProxy]:
    """squid, and the servers of the world, for one test alone."""
    with internet.internet(fresh.world), proxies.squid(fresh.mid) as found:
        yield found


def carries(bed: Rig) -> bool:
    """True when a page comes through, by IPv4 and by IPv6."""
    pages = (f"http://{WORLD4}/", f"http://[{WORLD6}]/")
    return all(clients.curl(bed.host, url, "--max-time", "2").returncode == 0 for url in pages)


def passed(seconds: float) -> None:
    """Let time pass, where that is what is tested."""
    end = time.monotonic() + seconds
    wait.until(lambda: time.monotonic() >= end, "time passes", seconds + 5)


def test_dead_worker_is_replaced_within_a_second_and_nothing_leaves(fresh: Rig, proxy: proxies.RunningProxy) -> None:
    options = ("--proxy", proxy.url4, "--killswitch", "--dns", RESOLVER4)
    with up(fresh.host, *options) as running, detector(fresh.mid, leak_filter()) as watch:
        old, begun = running.worker, time.monotonic()
        kill(old)
        while not clients.curl(fresh.host, f"http://{WORLD4}/", "--max-time", "1").stdout:
            clients.offer_bound_connections(fresh.host, 3)
            clients.offer_datagrams(fresh.host, 3)
            assert time.monotonic() - begun < 10
        print(f"carried again {time.monotonic() - begun:.2f} s after the worker's death")
        assert running.worker != old
        assert watch.seen() == []


@BOTH
def test_stopped_for_some_seconds_it_works_on(fresh: Rig, proxy: proxies.RunningProxy, killswitch: str) -> None:
    with up(fresh.host, "--proxy", proxy.url4, killswitch, "--dns", RESOLVER4) as running:
        sock = fresh.host.connect(WORLD4, ECHO)
        assert clients.echoes(sock)
        everybody = (running.process.pid, running.helper, running.worker)
        for pid in everybody:
            os.kill(pid, signal.SIGSTOP)
        fresh.host.run("nft", "flush", "ruleset")  # nobody sees it now
        passed(6)
        for pid in reversed(everybody):
            os.kill(pid, signal.SIGCONT)
        wait.until(lambda: "is put back" in running.said(), "the ruleset is put back")
        assert clients.echoes(sock)
        assert carries(fresh)
        assert running.worker == everybody[2]
        sock.close()


@BOTH
def test_proxy_whose_name_moves_is_followed(fresh: Rig, proxy: proxies.RunningProxy, killswitch: str) -> None:
    hosts = fresh.host.home / "hosts"
    fresh.mid.sh(f"ip addr add {FIRST}/24 dev h0; ip addr add {SECOND}/24 dev h0")
    hosts.write_text(f"127.0.0.1 localhost\n{FIRST} proxy.test\n")
    before = dump(fresh.host)
    url = f"http://proxy.test:{proxy.port}"
    with up(fresh.host, "--proxy", url, killswitch, "--dns", RESOLVER4) as running:
        assert carries(fresh)
        worker = running.worker
        hosts.write_text("127.0.0.1 localhost\n")
        refuse = f"chain input {{ type filter hook input priority 0; ip daddr {FIRST} reject with tcp reset; }}"
        fresh.mid.run("nft", f"table ip gone {{ {refuse}; }}")
        assert not carries(fresh)
        passed(6)  # a look finds no name at all, which loses nothing
        hosts.write_text(f"127.0.0.1 localhost\n{SECOND} proxy.test\n")
        wait.until(lambda: carries(fresh), "the new address is used", 20)
        assert sum(SECOND in line and "moved" in line for line in running.said().splitlines()) == 1
        assert running.worker == worker, "it was not restarted"
        fresh.mid.run("nft", "delete", "table", "ip", "gone")
        assert carries(fresh)
        assert running.stop() == 0
    assert difference(before, dump(fresh.host)) == ""
