"""The test bed itself, without proxyvpn: what it is there to show, it shows.

box ---- host ---- mid (squid, tinyproxy, tcpdump) ---- world (nginx, dnsmasq, sshd, raw TCP and UDP)
"""

from __future__ import annotations

import socket

import pytest

from tests.netns import proxies
from tests.netns.dumps import difference, dump
from tests.netns.internet import PAGE, Internet, ask
from tests.netns.rig import RESOLVER4, RESOLVER6, WORLD4, WORLD6, Rig, detector, leak_filter

pytestmark = pytest.mark.privileged


@pytest.mark.parametrize(
    "url", [f"http://{WORLD4}/", f"http://[{WORLD6}]/", f"https://{WORLD4}/", f"https://[{WORLD6}]/"]
)
def test_host_and_box_reach_the_world_directly(bed: Rig, world: Internet, url: str) -> None:
    for space in (bed.host, bed.box):
        done = space.run("curl", "-sS", "--cacert", str(world.certificate), url)
        assert done.stdout == PAGE


def test_squid_logs_the_way(bed: Rig, world: Internet, squid: proxies.RunningProxy) -> None:
    for url in (squid.url4, squid.url6):
        start = squid.log_size()
        done = bed.host.run("curl", "-sS", "--proxytunnel", "--proxy", url, f"http://{WORLD4}/")
        assert done.stdout == PAGE
        squid.logged(f"CONNECT {WORLD4}:80", start)


def test_squid_with_users_refuses_strangers(bed: Rig, world: Internet) -> None:
    page = f"http://{WORLD4}/"
    with proxies.squid(bed.mid, users={"ann": "s3cret"}, port=proxies.SQUID_WITH_USERS) as proxy:
        assert "407" in bed.host.run("curl", "-sS", "-p", "-x", proxy.url4, page, check=False).stderr
        assert bed.host.run("curl", "-sS", "-p", "-U", "ann:s3cret", "-x", proxy.url4, page).stdout == PAGE


def test_tinyproxy_carries(bed: Rig, world: Internet) -> None:
    with proxies.tinyproxy(bed.mid) as proxy:
        for url in (proxy.url4, proxy.url6):
            done = bed.host.run("curl", "-sS", "--proxytunnel", "--proxy", url, f"http://[{WORLD6}]/")
            assert done.stdout == PAGE
        assert WORLD6 in proxy.log.read_text()


def test_scripted_proxy_carries_and_refuses(bed: Rig, world: Internet) -> None:
    with proxies.scripted(bed.mid) as proxy:
        assert bed.host.run("curl", "-sS", "-p", "-x", proxy.url4, f"http://{WORLD4}/").stdout == PAGE
        proxy.answer = lambda _head: b"HTTP/1.1 403 Forbidden\r\n\r\n"
        assert bed.host.run("curl", "-sS", "-p", "-x", proxy.url4, f"http://{WORLD4}/", check=False).returncode == 56


def test_detector_sees_every_direct_packet(bed: Rig, world: Internet) -> None:
    with detector(bed.mid, leak_filter()) as watch:
        with bed.host.new_socket(kind=socket.SOCK_DGRAM) as sock:
            for _ in range(100):
                sock.sendto(b"x", (WORLD4, 7))
        with bed.host.connect(WORLD6, 7) as sock:
            sock.sendall(b"hello")
            assert sock.recv(9) == b"hello"
        seen = watch.seen()
    assert sum("UDP" in line and WORLD4 in line for line in seen) == 100
    assert any(f"> {WORLD6}.7: Flags" in line for line in seen)


def test_resolvers_answer(bed: Rig, world: Internet) -> None:
    assert all(ask(bed.host, resolver, tcp=tcp) for resolver in (RESOLVER4, RESOLVER6) for tcp in (False, True))


def test_ssh_logs_in(bed: Rig, world: Internet) -> None:
    done = bed.host.run("ssh", *ssh_options(world), f"root@{WORLD4}", "echo", "hello")
    assert done.stdout == "hello\n"


def ssh_options(world: Internet) -> list[str]:
    """Give the options for ssh to trust this world."""
    options = ("BatchMode=yes", "StrictHostKeyChecking=no", "UserKnownHostsFile=/dev/null", "LogLevel=ERROR")
    return ["-F", "none", "-i", str(world.ssh_key), *(part for option in options for part in ("-o", option))]


def test_dumps_are_equal_until_something_changes(bed: Rig) -> None:
    before = dump(bed.host)
    assert difference(before, dump(bed.host)) == ""
    bed.host.sh("ip rule add pref 77 fwmark 1 lookup 77; sysctl -q net.ipv4.conf.eth0.rp_filter=2")
    changes = difference(before, dump(bed.host))
    bed.host.sh("ip rule del pref 77; sysctl -q net.ipv4.conf.eth0.rp_filter=0")
    assert "77" in changes and "rp_filter = 2" in changes
    assert difference(before, dump(bed.host)) == ""
