"""What cannot work gets a sentence and its exit code, and changes nothing in the kernel.

host: `proxyvpn up` with something wrong ---- mid: squid, with and without users ---- world: a resolver
"""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.netns import proxies
from tests.netns.dumps import difference, dump
from tests.netns.internet import Internet
from tests.netns.rig import MID4, RESOLVER4, Rig
from tests.netns.up import proxyvpn, up

pytestmark = pytest.mark.privileged

SHELL = ("unshare", "--mount", "sh", "-euc")
"""Run a script in a mount namespace of its own, and then the program: append `script; exec "$0" "$@"`."""


def refused(bed: Rig, *options: str, before: tuple[str, ...] = (), verb: str = "up") -> tuple[int, str]:
    """Run `up`, check that the kernel is as before, and give the exit code and what was said."""
    kernel = dump(bed.host)
    done = proxyvpn(bed.host, verb, *options, before=before)
    assert difference(kernel, dump(bed.host)) == ""
    check_manners(done)
    return done.returncode, done.stderr


def check_manners(done: subprocess.CompletedProcess[str]) -> None:
    """Check that an error is a few lines on standard error, without a traceback."""
    assert "Traceback" not in done.stderr
    assert done.stdout == ""
    assert done.stderr.strip()


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("gopher://10.71.0.1:70", "gopher"),
        ("socks5://10.71.0.1:1080", "http://"),
        ("http://10.71.0.1:0", "port"),
        ("http://10.71.0.1:70000", "port"),
        ("http://10.71.0.1:٣١٢٨", "port"),
        ("http://:3128", "host"),
        ("http://", "host"),
        ("", "proxy"),
        ("http://10.71.0.1:3128/path", "path"),
        ("http://a%0d%0ab:c@10.71.0.1:3128", ""),
        ("http://[fe80::1%25eth0]:3128", ""),
        ("http://0.0.0.0:3128", "not the address of one machine"),
    ],
)
def test_proxy_url_that_cannot_be_meant(bed: Rig, url: str, words: str) -> None:
    code, said = refused(bed, "--proxy", url, "--dns", RESOLVER4)
    assert code == 2, said
    assert words in said.lower()
    assert len(said.strip().splitlines()) <= 6


@pytest.mark.parametrize(
    "options",
    [
        ("--dns", "not-an-address"),
        ("--allow-dns", "198.51.100.300"),
        ("--bypass", "0.0.0.0/0"),
        ("--bypass", "10.0.0.0/33"),
        ("--no-such-flag",),
        ("--proxy-password-file", "/does/not/exist"),
    ],
)
def test_option_that_cannot_be_meant(bed: Rig, options: tuple[str, ...]) -> None:
    code, said = refused(bed, "--proxy", f"http://{MID4}:3128", *options)
    assert code == 2, said


def test_no_proxy_named_at_all(bed: Rig) -> None:
    assert refused(bed)[0] == 2


def test_name_that_does_not_resolve(bed: Rig, world: Internet) -> None:
    bed.host.resolv_conf.write_text(f"nameserver {RESOLVER4}\n")
    code, said = refused(bed, "--proxy", "http://nowhere.invalid:3128")
    bed.host.resolv_conf.write_text("")
    assert (code, "nowhere.invalid" in said) == (5, True)


def test_proxy_that_nobody_answers_for(bed: Rig) -> None:
    code, said = refused(bed, "--proxy", f"http://{MID4}:9", "--dns", RESOLVER4)
    assert (code, f"{MID4}:9" in said) == (5, True)


def test_proxy_that_refuses_the_password(bed: Rig, world: Internet) -> None:
    with proxies.squid(bed.mid, users={"ann": "right"}, port=proxies.SQUID_WITH_USERS) as proxy:
        url = proxy.url4.replace("//", "//ann:wr0ng-w0rd@")
        code, said = refused(bed, "--proxy", url, "--dns", RESOLVER4)
    assert code == 6, said
    assert "407" in said and "wr0ng-w0rd" not in said


def good(squid: proxies.RunningProxy) -> tuple[str, ...]:
    """Give options with which nothing is wrong."""
    return ("--proxy", squid.url4, "--dns", RESOLVER4)


def test_without_privilege(bed: Rig, squid: proxies.RunningProxy) -> None:
    powerless = ("setpriv", "--bounding-set", "-all", "--inh-caps", "-all")
    code, said = refused(bed, *good(squid), before=powerless)
    assert code == 4, said
    assert "root" in said or "CAP_NET_ADMIN" in said


def test_no_dev_net_tun(bed: Rig, squid: proxies.RunningProxy) -> None:
    script = 'mount -t tmpfs tmpfs /dev/net; exec "$0" "$@"'
    code, said = refused(bed, *good(squid), before=(*SHELL, script))
    assert code == 1, said
    assert "/dev/net/tun" in said and "modprobe tun" in said


def test_dev_net_tun_that_may_not_be_opened(bed: Rig, squid: proxies.RunningProxy) -> None:
    script = """
        mknod -m 0600 /run/tun c 10 200; chown 1 /run/tun; mount --bind /run/tun /dev/net/tun
        exec setpriv --bounding-set -dac_override,-dac_read_search --inh-caps -all "$0" "$@"
    """
    code, said = refused(bed, *good(squid), before=(*SHELL, script))
    assert code == 4, said
    assert "/dev/net/tun" in said


def test_no_firewall_to_be_had(bed: Rig, squid: proxies.RunningProxy) -> None:
    libraries = bed.host.sh("ldconfig -p | sed -n 's/.*libnftables.so.1 .*=> //p'").split()
    hide = "; ".join(f"mount --bind /dev/null $(readlink -f {library})" for library in libraries)
    script = f'{hide}; mount -t tmpfs tmpfs /usr/sbin; mount -t tmpfs tmpfs /sbin; exec "$0" "$@"'
    code, said = refused(bed, *good(squid), before=(*SHELL, script))
    assert code == 1, said
    assert "nft" in said and "iptables" in said


def test_state_directory_that_cannot_be_written(bed: Rig, squid: proxies.RunningProxy) -> None:
    script = 'mkdir -p /run/ro; mount -t tmpfs -o ro,mode=0700 tmpfs /run/ro; exec "$0" "$@"'
    code, said = refused(bed, *good(squid), "--state-dir", "/run/ro", before=(*SHELL, script))
    assert (code, "/run/ro" in said) == (1, True)


def test_state_directory_of_somebody_else(bed: Rig, squid: proxies.RunningProxy) -> None:
    bed.host.sh("mkdir -m 0700 /run/theirs; chown 65534 /run/theirs")
    code, said = refused(bed, *good(squid), "--state-dir", "/run/theirs")
    assert (code, "/run/theirs" in said) == (1, True)


def test_state_directory_that_is_a_symlink(bed: Rig, squid: proxies.RunningProxy) -> None:
    bed.host.sh("mkdir -m 0700 /run/real; ln -s real /run/link")
    code, said = refused(bed, *good(squid), "--state-dir", "/run/link")
    assert (code, "/run/link" in said) == (1, True)


def test_state_directory_on_a_full_disk(bed: Rig, squid: proxies.RunningProxy) -> None:
    script = """
        mkdir -p /run/full; mount -t tmpfs -o size=4096,mode=0700 tmpfs /run/full
        dd if=/dev/zero of=/run/full/filler bs=4096 count=1 2> /dev/null; exec "$0" "$@"
    """
    code, said = refused(bed, *good(squid), "--state-dir", "/run/full", before=(*SHELL, script))
    assert (code, "/run/full" in said or "space" in said) == (1, True)


RECORDS = {
    "cut": "{",
    "list": "[]",
    "empty": "{}",
    "zeros": "\0" * 100,
    "newer": '{"version": 99}',
    "long": "9" * 100_000,
}


@pytest.mark.parametrize("record", RECORDS.values(), ids=RECORDS)
def test_corrupt_record(bed: Rig, squid: proxies.RunningProxy, tmp_path: Path, record: str) -> None:
    folder = tmp_path / "state"
    folder.mkdir(mode=0o700)
    (folder / "state.json").write_text(record)
    (folder / "state.json").chmod(0o600)
    place = ("--state-dir", str(folder))
    code, said = refused(bed, *good(squid), *place)
    assert code == 1, said
    assert "teardown" in said
    status = proxyvpn(bed.host, "status", *place)
    assert (status.returncode, "state.json cannot be read" in status.stdout) == (3, True)
    assert proxyvpn(bed.host, "teardown", *place).returncode == 0
    with up(bed.host, *good(squid), *place):
        pass


def test_unknown_command(bed: Rig) -> None:
    assert refused(bed, verb="upp")[0] == 2
