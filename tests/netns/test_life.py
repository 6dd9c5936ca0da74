"""How a tunnel ends, and what is left: the dumps of rules, routes, links, rulesets and sysctls tell.

host: `proxyvpn up` = app + helper + worker ---- [tcpdump] mid: squid ---- world: peer.py
"""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.netns import clients, internet, proxies, wait
from tests.netns.dumps import difference, dump
from tests.netns.peer import ECHO
from tests.netns.rig import RESOLVER4, WORLD4, WORLD6, Rig, detector, leak_filter
from tests.netns.up import Up, gone, kill, proxyvpn, up

pytestmark = pytest.mark.privileged

BOTH = pytest.mark.parametrize("killswitch", ["--killswitch", "--no-killswitch"])


@pytest.fixture
def proxy(fresh: Rig) -> Iterator[proxies.RunningProxy]:
    """squid, and the servers of the world, for one test alone."""
    with internet.internet(fresh.world), proxies.squid(fresh.mid) as found:
        yield found


def options(proxy: proxies.RunningProxy, killswitch: str) -> tuple[str, ...]:
    """Give the options of every `up` here."""
    return ("--proxy", proxy.url4, killswitch, "--dns", RESOLVER4)


def carries(bed: Rig) -> bool:
    """True when a page comes through, by IPv4 and by IPv6."""
    return all(clients.curl(bed.host, url).returncode == 0 for url in (f"http://{WORLD4}/", f"http://[{WORLD6}]/"))


@BOTH
@pytest.mark.parametrize("sig", [signal.SIGINT, signal.SIGTERM])
def test_signal_undoes_everything(fresh: Rig, proxy: proxies.RunningProxy, killswitch: str, sig: int) -> None:
    before = dump(fresh.host)
    with up(fresh.host, *options(proxy, killswitch)) as running:
        assert carries(fresh)
        assert difference(before, dump(fresh.host)) != ""
        assert running.stop(sig) == 0, running.said()
    assert difference(before, dump(fresh.host)) == ""
    assert fresh.host.run("ls", "-A", "/run/proxyvpn", check=False).stdout.split() in ([], ["lock"])


@BOTH
@pytest.mark.parametrize("verb", ["teardown", "down"])
def test_teardown_ends_a_running_tunnel(fresh: Rig, proxy: proxies.RunningProxy, killswitch: str, verb: str) -> None:
    before = dump(fresh.host)
    with up(fresh.host, *options(proxy, killswitch)) as running:
        done = proxyvpn(fresh.host, verb)
        assert done.returncode == 0, done.stderr
        assert difference(before, dump(fresh.host)) == ""
        assert running.wait() == 0


def test_detached_tunnel_is_ended_by_teardown(fresh: Rig, proxy: proxies.RunningProxy) -> None:
    before = dump(fresh.host)
    done = proxyvpn(fresh.host, "up", *options(proxy, "--killswitch"), "--detach")
    assert done.returncode == 0, done.stderr
    assert "ready:" in done.stdout
    assert carries(fresh)
    assert proxyvpn(fresh.host, "status").returncode == 0
    assert proxyvpn(fresh.host, "teardown").returncode == 0
    assert difference(before, dump(fresh.host)) == ""


def test_teardown_of_nothing_is_fine(fresh: Rig) -> None:
    before = dump(fresh.host)
    done = proxyvpn(fresh.host, "teardown")
    assert (done.returncode, bool(done.stdout + done.stderr)) == (0, True)
    assert difference(before, dump(fresh.host)) == ""


def test_status_says_how_it_is(fresh: Rig, proxy: proxies.RunningProxy) -> None:
    assert proxyvpn(fresh.host, "status").returncode == 3
    assert json.loads(proxyvpn(fresh.host, "status", "--json").stdout)["state"] == "down"
    with up(fresh.host, *options(proxy, "--killswitch")):
        assert carries(fresh)
        done = proxyvpn(fresh.host, "status")
        assert done.returncode == 0
        assert all(word in done.stdout for word in ("pvpn0", "10.71.0.1:3128", RESOLVER4))
        report = json.loads(proxyvpn(fresh.host, "status", "--json").stdout)
        assert (report["state"], report["killswitch"], report["interface"]) == ("up", True, "pvpn0")
        assert report["counters"]["flows_opened"] >= 2
    assert proxyvpn(fresh.host, "status").returncode == 3


def test_second_up_is_told_so(fresh: Rig, proxy: proxies.RunningProxy) -> None:
    with up(fresh.host, *options(proxy, "--killswitch")):
        during = dump(fresh.host)
        for more in ((), ("--state-dir", "/run/another")):
            done = proxyvpn(fresh.host, "up", *options(proxy, "--no-killswitch"), *more)
            assert done.returncode == 7, done.stderr
        assert difference(during, dump(fresh.host)) == ""
        assert carries(fresh)


def test_dry_run_prints_and_changes_nothing(fresh: Rig, proxy: proxies.RunningProxy) -> None:
    before = dump(fresh.host)
    done = proxyvpn(fresh.host, "up", *options(proxy, "--killswitch"), "--dry-run")
    assert done.returncode == 0, done.stderr
    assert "rule add" in done.stdout and "table inet proxyvpn" in done.stdout
    assert difference(before, dump(fresh.host)) == ""


def credentials(pid: int) -> dict[str, str]:
    """Give what /proc says about a process's rights."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return dict(line.split(":\t", 1) for line in lines if ":\t" in line)


def test_processes_hold_no_more_than_they_need(fresh: Rig, proxy: proxies.RunningProxy) -> None:
    with up(
        fresh.host, *options(proxy, "--killswitch"), before=("sh", "-c", 'ulimit -c hard; exec "$0" "$@"')
    ) as running:
        helper, worker = credentials(running.helper), credentials(running.worker)
        for pid in (running.process.pid, running.helper, running.worker):
            limits = Path(f"/proc/{pid}/limits").read_text().splitlines()
            core = next(line for line in limits if line.startswith("Max core file size"))
            assert core.split()[4:6] in (["0", "0"], ["1", "1"]), "a core file would hold the password"
    for each in (helper, worker):
        assert "0" not in each["Uid"].split()
        assert (each["CapBnd"], each["CapInh"], each["CapAmb"], each["NoNewPrivs"]) == (
            "0" * 16,
            "0" * 16,
            "0" * 16,
            "1",
        )
    assert int(helper["CapEff"], 16) == int(helper["CapPrm"], 16) == 1 << 12, "CAP_NET_ADMIN alone"
    assert int(worker["CapEff"], 16) == int(worker["CapPrm"], 16) == 0
    assert worker["Seccomp"] == "2"


@BOTH
def test_killed_worker_is_replaced(fresh: Rig, proxy: proxies.RunningProxy, killswitch: str) -> None:
    before = dump(fresh.host)
    with up(fresh.host, *options(proxy, killswitch)) as running, detector(fresh.mid, leak_filter()) as watch:
        sock = fresh.host.connect(WORLD4, ECHO)
        assert clients.echoes(sock)
        during, old, begun = dump(fresh.host), running.worker, len(watch.seen())
        kill(old)
        assert running.worker != old
        wait.until(lambda: carries(fresh), "the new worker carries", 5)
        assert not clients.echoes(sock)
        sock.close()
        assert difference(during, dump(fresh.host)) == ""
        assert not [line for line in watch.seen()[begun:] if "Flags" in line]
        assert running.stop() == 0
    assert difference(before, dump(fresh.host)) == ""


def offer_nothing_seen(bed: Rig) -> None:
    """Check that a locked machine lets nothing out."""
    with detector(bed.mid, leak_filter(())) as watch:
        clients.offer_datagrams(bed.host, 20)
        clients.offer_bound_connections(bed.host, 20)
        clients.offer_datagrams(bed.box, 20)
        assert clients.curl(bed.host, f"http://{WORLD4}/", "--max-time", "1").returncode != 0
        assert watch.seen() == []


def unlock(bed: Rig, before: dict[str, str]) -> None:
    """Check that the machine says it is locked, and that teardown opens it and leaves nothing."""
    done = proxyvpn(bed.host, "status")
    assert done.returncode == 9, (done.stdout, done.stderr)
    assert "teardown" in done.stdout + done.stderr
    done = proxyvpn(bed.host, "teardown")
    assert done.returncode == 0, done.stderr
    assert difference(before, dump(bed.host)) == ""
    assert clients.curl(bed.host, f"http://{WORLD4}/").returncode == 0


def victims(running: Up, which: str) -> tuple[int, ...]:
    """Give the processes to kill."""
    helper, worker, app = running.helper, running.worker, running.process.pid
    return {"app": (app,), "helper": (helper,), "all": (helper, worker, app)}[which]


@pytest.mark.parametrize("which", ["app", "helper", "all"])
def test_killed_without_killswitch_leaves_an_open_machine(fresh: Rig, proxy: proxies.RunningProxy, which: str) -> None:
    before = dump(fresh.host)
    with up(fresh.host, *options(proxy, "--no-killswitch")) as running:
        helper, worker = running.helper, running.worker
        kill(*victims(running, which))
        code = running.wait()
        assert code == (1 if which == "helper" else -signal.SIGKILL), running.said()
        wait.until(lambda: gone(helper) and gone(worker), "helper and worker end")
    assert clients.curl(fresh.host, f"http://{WORLD4}/").returncode == 0
    if which != "all":
        assert difference(before, dump(fresh.host)) == ""
    assert proxyvpn(fresh.host, "teardown").returncode == 0
    assert difference(before, dump(fresh.host)) == ""


@pytest.mark.parametrize("which", ["app", "helper", "all"])
def test_killed_with_killswitch_leaves_a_locked_machine(fresh: Rig, proxy: proxies.RunningProxy, which: str) -> None:
    before = dump(fresh.host)
    with up(fresh.host, *options(proxy, "--killswitch")) as running:
        helper, worker = running.helper, running.worker
        kill(*victims(running, which))
        code = running.wait()
        assert code == (9 if which == "helper" else -signal.SIGKILL), running.said()
        wait.until(lambda: gone(helper) and gone(worker), "helper and worker end")
        if which != "all":
            assert "teardown" in running.said()
    offer_nothing_seen(fresh)
    unlock(fresh, before)


def test_next_up_takes_a_locked_machine_over(fresh: Rig, proxy: proxies.RunningProxy) -> None:
    before = dump(fresh.host)
    with up(fresh.host, *options(proxy, "--killswitch")) as running:
        kill(*victims(running, "all"))
    with detector(fresh.mid, leak_filter()) as watch, up(fresh.host, *options(proxy, "--killswitch")) as running:
        clients.offer_datagrams(fresh.host, 50)
        clients.offer_bound_connections(fresh.host, 20)
        assert carries(fresh)
        assert watch.seen() == []
        assert running.stop() == 0
    assert difference(before, dump(fresh.host)) == ""


def test_teardown_needs_no_state_directory(fresh: Rig, proxy: proxies.RunningProxy) -> None:
    before = dump(fresh.host)
    with up(fresh.host, *options(proxy, "--killswitch")) as running:
        kill(*victims(running, "all"))
    fresh.host.sh("rm -r /run/proxyvpn")
    assert proxyvpn(fresh.host, "teardown").returncode == 0
    assert difference(before, dump(fresh.host)) == ""


def test_teardown_leaves_foreign_objects_alone(fresh: Rig, proxy: proxies.RunningProxy) -> None:
    fresh.host.sh(
        """ip rule add pref 5200 fwmark 0x70767076 lookup 77; ip route add 192.0.2.0/24 dev eth0 table 28791
        ip tuntap add pvpn5 mode tun; nft add table inet proxyvpn2; nft add table ip proxyvpn"""
    )
    before = dump(fresh.host)
    with up(fresh.host, *options(proxy, "--killswitch")) as running:
        assert carries(fresh)
        kill(*victims(running, "all"))
    assert proxyvpn(fresh.host, "teardown").returncode == 0
    assert difference(before, dump(fresh.host)) == ""
