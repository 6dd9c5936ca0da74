"""Behind a real corporate proxy: outside names and packets end there, CONNECT is by name and with a ticket.

box ---- host: programs, `proxyvpn up` ---- [tcpdump] mid: squid, KDC, corporate resolver, intranet ---- world: servers
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from proxyvpn.errors import Exit
from tests.netns import clients, corporate, daemons, programs, proxies
from tests.netns.corporate import INSIDE, INTRANET, INTRANET_PAGE, Corporation
from tests.netns.internet import PAGE, Internet
from tests.netns.kerberos import DOMAIN, PROXY
from tests.netns.published import Fetchers, publish
from tests.netns.rig import MID4, WORLD4, Rig, detector
from tests.netns.up import Up, environment, proxyvpn, up

pytestmark = pytest.mark.privileged

URL = f"http://{PROXY}:3128"
OPTIONS = (
    *("--proxy", URL, "--names", "virtual", "--killswitch"),
    *("--direct-domain", DOMAIN, "--bypass", f"{INSIDE}/32"),
    *("--inbound", "udp/53"),
)
"""The last is for the container that asks a resolver on this machine."""
NOT_INSIDE = f"(ip or ip6) and not (dst host {MID4} and tcp dst port 3128) and not dst host {INSIDE} and not icmp6"
"""What must not leave: all but what goes to the proxy, and to what is inside."""


@pytest.fixture(scope="module")
def office(bed: Rig, world: Internet) -> Iterator[Corporation]:
    """The corporate network, and a machine in it that has its resolver and nothing else."""
    publish(world.www)
    with corporate.corporation(bed) as found:
        bed.host.resolv_conf.write_text(f"nameserver {INSIDE}\n")
        bed.box.resolv_conf.write_text(f"nameserver {INSIDE}\n")
        yield found


@pytest.fixture(scope="module")
def squid(bed: Rig, office: Corporation) -> Iterator[proxies.RunningProxy]:
    """squid as its administrator wants it."""
    with proxies.squid(bed.mid, auth=corporate.kerberos(office.kdc), users={"nobody": "x"}) as found:
        yield found


@pytest.fixture(scope="module")
def tunnel(bed: Rig, office: Corporation, squid: proxies.RunningProxy) -> Iterator[Up]:
    """`up` with ann's ticket, from when it is first wanted; tests with an `up` of their own come before."""
    ticket = office.kdc.ticket(bed.host, bed.home / "ann.cache")
    with up(bed.host, *OPTIONS, env=ticket) as running:
        yield running


def test_squid_wants_a_ticket_and_a_name(bed: Rig, office: Corporation, squid: proxies.RunningProxy) -> None:
    ticket = office.kdc.ticket(bed.host, bed.home / "curl.cache")
    command = ["curl", "-sS", "--max-time", "20", "--proxytunnel", "--proxy", URL]
    negotiate = ("--proxy-negotiate", "--proxy-user", ":")

    def said(*words: str) -> str:
        done = bed.host.run(*command, *words, check=False, env=environment(ticket))
        return done.stdout + done.stderr

    assert said(*negotiate, "http://www.world.test/") == PAGE
    assert "407" in said("http://www.world.test/")
    for address in (WORLD4, "[2001:db8:99::10]"):
        assert "403" in said(*negotiate, f"http://{address}/")


def test_ticket_comes_by_a_keytab_too(bed: Rig, office: Corporation, squid: proxies.RunningProxy) -> None:
    keytab = {"KRB5_CLIENT_KTNAME": f"FILE:{office.kdc.robot_keytab}", "KRB5CCNAME": "MEMORY:"}
    with up(bed.host, *OPTIONS, env=keytab):
        before = squid.log_size()
        assert clients.curl(bed.host, "http://www.world.test/").stdout == PAGE
        squid.logged("robot@", before)


def test_without_a_ticket_up_says_what_to_do(bed: Rig, office: Corporation, squid: proxies.RunningProxy) -> None:
    done = proxyvpn(bed.host, "up", *OPTIONS, env={"KRB5CCNAME": f"FILE:{bed.home}/none"})
    assert done.returncode == Exit.PROXY_REFUSES
    assert "kinit" in done.stderr


def test_curl_git_apt_and_pip_are_carried(
    tunnel: Up, bed: Rig, world: Internet, squid: proxies.RunningProxy, tmp_path: Path
) -> None:
    fetchers = Fetchers(world, tmp_path)
    with detector(bed.mid, NOT_INSIDE) as watch:
        assert programs.together(bed.host, fetchers.commands(), fetchers.environment()) == {}
        assert all(fetchers.fetched().values()), fetchers.fetched()
        assert watch.seen() == []
    log = squid.log.read_text()
    assert all(f"CONNECT {name}.world.test:443 ann@" in log for name in ("www", "git", "apt", "pypi")), log


def test_programs_with_resolvers_of_their_own_are_carried(tunnel: Up, bed: Rig, world: Internet) -> None:
    with detector(bed.mid, NOT_INSIDE) as watch:
        found = programs.pages(bed.host, "www.world.test", world)
        assert found == dict.fromkeys(found, True)
        assert watch.seen() == []


def test_names_inside_are_resolved_and_reached_directly(tunnel: Up, bed: Rig) -> None:
    assert clients.curl(bed.host, f"http://{INTRANET}/").stdout == INTRANET_PAGE
    assert clients.curl(bed.box, f"http://{INTRANET}/").stdout == INTRANET_PAGE


def test_nscd_asks_for_programs(tunnel: Up, bed: Rig) -> None:
    with daemons.nscd(bed.host):
        for _ in range(2):
            assert clients.curl(bed.host, "http://www.world.test/").stdout == PAGE
        assert clients.curl(bed.host, f"http://{INTRANET}/").stdout == INTRANET_PAGE


@pytest.mark.parametrize("forwarder", ["host", "box"])
def test_containers_are_carried_whoever_forwards_their_questions(tunnel: Up, bed: Rig, forwarder: str) -> None:
    before = bed.box.resolv_conf.read_text()
    space, address = (bed.host, "172.31.97.1") if forwarder == "host" else (bed.box, "127.0.0.11")
    with daemons.forwarder(space, address, INSIDE):
        bed.box.resolv_conf.write_text(f"nameserver {address}\noptions ndots:0\n")
        assert clients.curl(bed.box, "http://www.world.test/").stdout == PAGE
        assert clients.curl(bed.box, f"http://{INTRANET}/").stdout == INTRANET_PAGE
    bed.box.resolv_conf.write_text(before)
