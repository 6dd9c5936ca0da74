"""`--proxy pac:…`: a script says for each connection which proxy is asked, or that it goes past all of them.

host: curl, `proxyvpn up` and the script ---- mid: squid, tinyproxy ---- world: nginx, the PAC file
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("_quickjs", reason="the extra `pac` is not installed")

from tests.netns import clients, proxies
from tests.netns.internet import PAGE, Internet
from tests.netns.rig import HOST4, MANY, MID4, RESOLVER4, WORLD4, WORLD6, Rig
from tests.netns.up import Up, proxyvpn, up

pytestmark = pytest.mark.privileged

BY_TINYPROXY, DIRECTLY, LOOPING, UNKNOWN, DEAD = (f"{MANY}{number}" for number in (1, 2, 3, 4, 5))
COULD_NOT_CONNECT = 7
"""Of curl."""
SCRIPT = f"""
var squid = "{MID4}:{proxies.SQUID}";
function FindProxyForURL(url, host) {{
    if (host == "{BY_TINYPROXY}" || host == "tiny.test") return "PROXY {MID4}:{proxies.TINYPROXY}; PROXY " + squid;
    if (host == "{DIRECTLY}" || host == "direct.test") return "DIRECT";
    if (host == "{LOOPING}") for (;;) ;
    if (host == "{UNKNOWN}") return "PROXY " + "{MID4}:" + 4000;
    if (host == "{DEAD}") return "PROXY {MID4}:9; SOCKS {MID4}:1080; DIRECT";
    return "PROXY " + squid;
}}
"""


@pytest.fixture(scope="module")
def tiny(bed: Rig, world: Internet) -> Iterator[proxies.RunningProxy]:
    with proxies.tinyproxy(bed.mid) as proxy:
        yield proxy


@pytest.fixture(scope="module")
def carried(bed: Rig, world: Internet, squid: proxies.RunningProxy, tiny: proxies.RunningProxy) -> Iterator[Up]:
    """`up` on host with a script that it has fetched from world."""
    (world.www / "proxy.pac").write_text(SCRIPT)
    with up(bed.host, "--proxy", f"pac:http://{WORLD4}/proxy.pac", "--dns", RESOLVER4, "--killswitch") as running:
        yield running


def visitors(world: Internet, start: int) -> list[str]:
    """Give the addresses from which pages were fetched since byte `start` of nginx' log."""
    return [line.split()[0] for line in log(world).read_text()[start:].splitlines()]


def log(world: Internet) -> Path:
    return world.www.parent / "access.log"


def size(world: Internet) -> int:
    return log(world).stat().st_size


# Before `carried`, which stays up from its first test on.


def test_script_is_asked_about_names_where_the_proxy_resolves_them(
    bed: Rig, world: Internet, squid: proxies.RunningProxy, tiny: proxies.RunningProxy, tmp_path: Path
) -> None:
    (tmp_path / "proxy.pac").write_text(SCRIPT)
    bed.host.resolv_conf.write_text("nameserver 203.0.113.53\n")
    before = squid.log_size(), tiny.log_size()
    with up(bed.host, "--proxy", f"pac:{tmp_path}/proxy.pac", "--names", "virtual", "--killswitch") as running:
        assert clients.curl(bed.host, "http://world.test/").stdout == PAGE
        squid.logged("CONNECT world.test:80", before[0])
        clients.curl(bed.host, "http://tiny.test/")
        tiny.logged("CONNECT tiny.test:80", before[1])
        assert clients.curl(bed.host, "http://direct.test/").returncode == COULD_NOT_CONNECT
        assert "no address of it is known here; --direct-domain" in running.said()
    bed.host.resolv_conf.write_text("")


def test_script_of_no_use_is_said_before_anything_is_changed(bed: Rig, tmp_path: Path) -> None:
    before = bed.host.sh("ip rule; nft list ruleset")
    for text, says in (
        ("for (;;) ;", "takes too long"),
        ("nonsense(", "SyntaxError"),
        ("var x = 1", "is it a PAC file"),
    ):
        (tmp_path / "proxy.pac").write_text(text)
        done = proxyvpn(bed.host, "up", "--proxy", f"pac:{tmp_path}/proxy.pac", "--dns", RESOLVER4)
        assert done.returncode == 1 and says in done.stderr, done.stderr
    done = proxyvpn(bed.host, "up", "--proxy", f"pac:http://{WORLD4}:9/", "--dns", RESOLVER4)
    assert done.returncode == 1 and "cannot be fetched" in done.stderr
    assert bed.host.sh("ip rule; nft list ruleset") == before


def test_proxy_of_the_answer_is_asked(
    carried: Up, bed: Rig, squid: proxies.RunningProxy, tiny: proxies.RunningProxy
) -> None:
    before = squid.log_size(), tiny.log_size()
    for host in (WORLD4, f"[{WORLD6}]", BY_TINYPROXY):
        assert clients.curl(bed.host, f"http://{host}/").stdout == PAGE
    squid.logged(f"CONNECT {WORLD4}:80", before[0])
    squid.logged(f"CONNECT [{WORLD6}]:80", before[0])
    tiny.logged(f"CONNECT {BY_TINYPROXY}:80", before[1])
    assert BY_TINYPROXY not in squid.log.read_text()[before[0] :]


def test_direct_connection_goes_past_the_proxies_under_the_killswitch(carried: Up, bed: Rig, world: Internet) -> None:
    before = size(world)
    assert clients.curl(bed.host, f"http://{DIRECTLY}/").stdout == PAGE
    assert clients.curl(bed.box, f"http://{DIRECTLY}/").stdout == PAGE
    assert clients.curl(bed.host, f"https://{DIRECTLY}/", "-k").stdout == PAGE
    assert clients.curl(bed.host, f"http://{WORLD4}/").stdout == PAGE
    assert visitors(world, before) == [HOST4, HOST4, HOST4, "198.51.100.1"]


def test_way_that_cannot_be_gone_is_passed_over(carried: Up, bed: Rig, world: Internet) -> None:
    before = size(world)
    assert clients.curl(bed.host, f"http://{DEAD}/").stdout == PAGE
    assert visitors(world, before) == [HOST4]


def test_script_that_loops_refuses_its_connection_and_no_other(carried: Up, bed: Rig) -> None:
    begun = time.monotonic()
    assert clients.curl(bed.host, f"http://{LOOPING}/").returncode == COULD_NOT_CONNECT
    assert time.monotonic() - begun < 5
    assert clients.curl(bed.host, f"http://{LOOPING}/").returncode == COULD_NOT_CONNECT
    assert clients.curl(bed.host, f"http://{WORLD4}/").stdout == PAGE
    assert carried.said().count("takes too long") == 1


def test_proxy_that_was_not_known_is_refused_with_what_to_do(carried: Up, bed: Rig) -> None:
    assert clients.curl(bed.host, f"http://{UNKNOWN}/").returncode == COULD_NOT_CONNECT
    assert (
        f"the PAC file names http://{MID4}:4000, which was not known when `up` began; give it by --proxy"
        in carried.said()
    )
