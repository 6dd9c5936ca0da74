"""The firewall by other means: the `nft` program, and iptables in both its kinds, with all that is better hidden.

box ---- host: `proxyvpn up`, some files hidden ---- [tcpdump] mid: squid ---- world: nginx, peer.py
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from tests.netns import clients, internet, proxies, wait
from tests.netns.dumps import difference, dump, without_empty_tables
from tests.netns.internet import PAGE, ask
from tests.netns.peer import ECHO
from tests.netns.rig import RESOLVER4, RESOLVER6, WORLD4, WORLD6, Rig, detector, leak_filter
from tests.netns.up import kill, proxyvpn, up

pytestmark = pytest.mark.privileged

_LIBRARY = "$(ldconfig -p | sed -n 's/.*libnftables.so.1 .*=> //p')"
_NFT, _LEGACY = "$(command -v nft)", "$(command -v iptables-legacy) $(command -v ip6tables-legacy)"
HIDDEN = {
    "the nft program": _LIBRARY,
    "iptables, legacy": f"{_LIBRARY} {_NFT}",
    "iptables over nf_tables": f"{_LIBRARY} {_NFT} {_LEGACY}",
}
URLS = (f"http://{WORLD4}/", f"http://[{WORLD6}]/")


@dataclass(frozen=True, slots=True)
class Way:
    """How to run a command with only one way left, and squid."""

    before: tuple[str, ...]
    proxy: proxies.RunningProxy


@pytest.fixture(params=HIDDEN)
def way(request: pytest.FixtureRequest, fresh: Rig) -> Iterator[Way]:
    """Each of the ways that are not libnftables."""
    with internet.internet(fresh.world), proxies.squid(fresh.mid) as proxy:
        yield Way(hiding(HIDDEN[request.param]), proxy)


def hiding(files: str) -> tuple[str, ...]:
    """Give what to run a command with, so that it does not find some files."""
    hide = f'for file in {files}; do mount --bind /dev/null "$(readlink -f "$file")"; done'
    return ("unshare", "--mount", "sh", "-euc", f'{hide}; exec "$0" "$@"')


def options(way: Way, killswitch: str = "--killswitch") -> tuple[str, ...]:
    """Give the options of every `up` here."""
    return ("--proxy", way.proxy.url4, killswitch, "--dns", RESOLVER4)


def carries(bed: Rig) -> bool:
    """True when pages come through, for host and for box."""
    return all(clients.curl(space, url).stdout == PAGE for space in (bed.host, bed.box) for url in URLS)


@pytest.mark.parametrize("killswitch", ["--killswitch", "--no-killswitch"])
def test_everything_is_carried_and_undone(fresh: Rig, way: Way, killswitch: str) -> None:
    before, start = without_empty_tables(dump(fresh.host)), way.proxy.log_size()
    with up(fresh.host, *options(way, killswitch), before=way.before) as running:
        assert carries(fresh)
        way.proxy.logged(f"CONNECT [{WORLD6}]:80", start)
        assert running.stop() == 0
    assert difference(before, without_empty_tables(dump(fresh.host))) == ""


def test_killswitch_lets_nothing_out(fresh: Rig, way: Way) -> None:
    with detector(fresh.mid, leak_filter()) as watch:
        clients.offer_datagrams(fresh.host, 5)
        assert len(watch.seen()) >= 10
        older = fresh.host.connect(WORLD4, ECHO)
        with up(fresh.host, *options(way), before=way.before):
            begun = len(watch.seen())
            for space in (fresh.host, fresh.box):
                clients.offer_datagrams(space, 50)
                clients.offer_pings(space, 20)
            clients.offer_bound_connections(fresh.host, 50)
            assert not clients.echoes(older)
            assert carries(fresh)
            assert watch.seen()[begun:] == []
            assert ask(fresh.host, RESOLVER4) and not ask(fresh.host, RESOLVER6, seconds=0.5)
        older.close()


def test_only_this_machine_may_ask_for_an_address(fresh: Rig, way: Way) -> None:
    asked = "udp and (dst port 67 or dst port 547)"
    with up(fresh.host, *options(way), before=way.before), detector(fresh.mid, asked) as watch:
        clients.ask_for_an_address(fresh.box)
        assert watch.seen() == []
        clients.ask_for_an_address(fresh.host)
        assert sum("255.255.255.255.67" in line for line in watch.seen()) == 1
        assert sum("ff02::1:2.547" in line for line in watch.seen()) == 1


@pytest.mark.parametrize("killswitch", ["--killswitch", "--no-killswitch"])
def test_what_others_flush_is_put_back(fresh: Rig, way: Way, killswitch: str) -> None:
    with up(fresh.host, *options(way, killswitch), before=way.before) as running:
        programs = "iptables-legacy ip6tables-legacy iptables ip6tables"
        fresh.host.sh(f"for each in {programs}; do $each -t mangle -F; done; nft flush ruleset")
        wait.until(lambda: "is put back" in running.said(), "it is put back")
        wait.until(lambda: carries(fresh), "it carries")
        assert ("NOT in place" in proxyvpn(fresh.host, "status").stdout) is False


def test_killed_tunnel_stays_locked_until_teardown(fresh: Rig, way: Way) -> None:
    before = without_empty_tables(dump(fresh.host))
    with up(fresh.host, *options(way), before=way.before) as running:
        kill(running.helper, running.worker, running.process.pid)
    with detector(fresh.mid, leak_filter()) as watch:
        clients.offer_datagrams(fresh.host, 20)
        clients.offer_bound_connections(fresh.host, 20)
        assert clients.curl(fresh.host, URLS[0], "--max-time", "1").returncode != 0
        assert watch.seen() == []
    assert proxyvpn(fresh.host, "status", before=way.before).returncode == 9
    assert proxyvpn(fresh.host, "teardown", before=way.before).returncode == 0
    assert difference(before, without_empty_tables(dump(fresh.host))) == ""
