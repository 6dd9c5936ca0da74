"""A locked machine and a state directory that is gone, stale, forged, somebody else's, full or read-only.

host: a crashed `proxyvpn up` under the killswitch ---- mid: squid ---- world

The record is shown and never followed: `status` looks into the kernel, `teardown` opens the machine, and nothing that a
record names is touched.
"""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator

import pytest

from tests.netns import aftermath, proxies
from tests.netns.dumps import difference, dump
from tests.netns.namespaces import end
from tests.netns.rig import RESOLVER4, Rig
from tests.netns.stepwise import Stepwise, stepwise
from tests.netns.test_crash import forward
from tests.netns.up import PROGRAM, environment, kill, proxyvpn, up

pytestmark = pytest.mark.privileged

FOREIGN = """
ip rule add pref 5200 fwmark 0x70767076 lookup 77; ip -6 rule add pref 77 lookup 77 protocol 99
ip route add 192.0.2.0/24 dev eth0 table 77 protocol 99; ip route add 192.0.2.0/24 dev eth0
ip tuntap add dev pvpn7 mode tun; nft add table inet theirs
mkdir -p /run/precious; for name in state.json lock control log; do echo precious > /run/precious/$name; done
"""
FORGED_STEPS = (
    "ip -4 rule add pref 5200 fwmark 0x70767076 lookup 77",
    "ip -6 rule add pref 77 lookup 77 protocol 99",
    "ip -4 route add 192.0.2.0/24 dev eth0 table 77 protocol 99",
    "ip -4 route add 192.0.2.0/24 dev eth0",
    "ip link add dev eth0",
    "ip link add dev pvpn7",
    "nft add table inet theirs",
    "nft add table inet somebody",
    "/run/precious",
)
BAD = {
    "gone": "rm -r /run/proxyvpn",
    "record gone": "rm /run/proxyvpn/state.json",
    "cut": "printf '{' > /run/proxyvpn/state.json",
    "zeros": "head -c 100000 /dev/zero > /run/proxyvpn/state.json",
    "of the next version": 'sed -i \'s/"version": 1/"version": 2/\' /run/proxyvpn/state.json',
    "of another boot": 'sed -i \'s/"boot_id": "....../"boot_id": "000000/\' /run/proxyvpn/state.json',
    "somebody else's record": "chown 65534 /run/proxyvpn/state.json",
    "somebody else's lock": "touch /run/proxyvpn/lock; chown 65534 /run/proxyvpn/lock",
    "links to others": "cd /run/proxyvpn; for n in state.json lock control log; do ln -sf /run/precious/$n $n; done",
    "hard links to others": "cd /run/proxyvpn; for n in state.json lock control; do ln -f /run/precious/$n $n; done",
    "pipes": "cd /run/proxyvpn; for n in state.json lock control; do rm -f $n; mkfifo -m 600 $n; done",
    "folders": "cd /run/proxyvpn; for n in state.json lock control; do rm -f $n; mkdir $n; done",
    "full": "mount -t tmpfs -o size=4096,nr_inodes=2,mode=0700 tmpfs /run/proxyvpn; echo > /run/proxyvpn/filler",
    "read-only": "mount -t tmpfs -o ro,mode=0700 tmpfs /run/proxyvpn",
    "read-only, with the record": "mount --bind /run/proxyvpn /run/proxyvpn; mount -o remount,ro,bind /run/proxyvpn",
}


@pytest.fixture
def before(bed: Rig) -> Iterator[dict[str, str]]:
    """How the machine is without a tunnel, with what is not ours; so it must be again."""
    bed.host.sh(FOREIGN)
    found = dump(bed.host)
    yield found
    assert difference(found, dump(bed.host)) == ""
    assert bed.host.sh("cat /run/precious/*").split() == ["precious"] * 4
    bed.host.sh(
        """ip rule del pref 5200 lookup 77; ip -6 rule del pref 77; ip route del 192.0.2.0/24 table 77
        ip route del 192.0.2.0/24; ip link del pvpn7; nft delete table inet theirs; rm -r /run/precious
        umount /run/proxyvpn 2> /dev/null || true; rm -rf /run/proxyvpn"""
    )


def crash(bed: Rig, proxy: proxies.RunningProxy) -> None:
    """Leave a locked machine behind."""
    with up(bed.host, "--proxy", proxy.url4, "--dns", RESOLVER4, "--killswitch") as running:
        kill(running.helper, running.worker, running.process.pid)


@pytest.mark.parametrize("state", BAD)
def test_locked_machine_is_shown_and_opened_whatever_the_state(
    bed: Rig, squid: proxies.RunningProxy, before: dict[str, str], state: str
) -> None:
    crash(bed, squid)
    bed.host.sh(BAD[state])
    assert aftermath.check(bed.host, before, killswitch=True) == aftermath.LOCKED


def test_forged_record_is_shown_and_never_followed(
    bed: Rig, squid: proxies.RunningProxy, before: dict[str, str]
) -> None:
    crash(bed, squid)
    bystander = bed.host.start("sleep", "600")
    record = json.loads(bed.host.sh("cat /run/proxyvpn/state.json"))
    forged = {**record, "pid": bystander.pid, "ifname": "eth0", "steps": FORGED_STEPS, "proxies": ["/run/precious"]}
    bed.host.run("tee", "/run/proxyvpn/state.json", input=json.dumps(forged), stdin=None)
    assert "eth0" in proxyvpn(bed.host, "status", "--json").stdout
    assert aftermath.check(bed.host, before, killswitch=True) == aftermath.LOCKED
    assert bystander.poll() is None
    end(bystander)


def test_forged_lock_on_an_open_machine_changes_nothing(
    bed: Rig, squid: proxies.RunningProxy, before: dict[str, str]
) -> None:
    crash(bed, squid)
    text = bed.host.sh("cat /run/proxyvpn/state.json")
    assert proxyvpn(bed.host, "teardown").returncode == 0
    bed.host.run("tee", "/run/proxyvpn/state.json", input=text, stdin=None)
    assert aftermath.check(bed.host, before, killswitch=True) == aftermath.AS_BEFORE


def test_directory_of_somebody_else_is_refused_and_another_one_will_do(
    bed: Rig, squid: proxies.RunningProxy, before: dict[str, str]
) -> None:
    crash(bed, squid)
    bed.host.sh("chown 65534 /run/proxyvpn")
    for verb in ("status", "teardown"):
        done = proxyvpn(bed.host, verb)
        assert (done.returncode, "--state-dir" in done.stderr) == (1, True), done.stderr
    assert aftermath.check(bed.host, before, True, "--state-dir", "/run/no-such-directory") == aftermath.LOCKED


def started(run: Stepwise) -> None:
    """Let `up` become ready."""
    run.run_on(lambda: "ready:" in run.printed())
    assert run.process.poll() is None, run.said


def test_disk_that_fills_while_up_starts_does_not_matter(
    bed: Rig, squid: proxies.RunningProxy, before: dict[str, str]
) -> None:
    bed.host.sh("mkdir -p -m 0700 /run/proxyvpn; mount -t tmpfs -o size=64k,mode=0700 tmpfs /run/proxyvpn")
    with stepwise(bed.host, "up", "--proxy", squid.url4, "--dns", RESOLVER4, "--killswitch") as run:
        assert forward(run, 3)
        bed.host.sh("cat /dev/zero > /run/proxyvpn/filler 2> /dev/null || true")
        started(run)
        assert "the disk is full" in run.said
        assert proxyvpn(bed.host, "status").returncode == 0
        teardown = bed.host.start(PROGRAM, "teardown", env=environment())
        run.run_on()
        assert (teardown.wait(5), run.process.wait(5)) == (0, 0)


@pytest.mark.parametrize("way", ["umount -l /run/proxyvpn", "rm -r /run/proxyvpn/*", "rm -r /run/gone"])
def test_state_directory_that_goes_away_under_a_running_tunnel(
    bed: Rig, squid: proxies.RunningProxy, before: dict[str, str], way: str
) -> None:
    place = ("--state-dir", "/run/gone") if "gone" in way else ()
    bed.host.sh("mkdir -p -m 0700 /run/proxyvpn; mount -t tmpfs -o size=64k,mode=0700 tmpfs /run/proxyvpn")
    with up(bed.host, "--proxy", squid.url4, "--dns", RESOLVER4, "--killswitch", *place) as running:
        during = dump(bed.host)
        bed.host.sh(way)
        for verb in ("status", "teardown"):
            done = proxyvpn(bed.host, verb, *place)
            assert (done.returncode, "a tunnel runs in this network namespace" in done.stderr) == (7, True), done.stderr
        second = proxyvpn(bed.host, "up", "--proxy", squid.url4, "--dns", RESOLVER4, *place)
        assert second.returncode == 7, second.stderr
        assert difference(during, dump(bed.host)) == ""
        assert running.stop() == 0
        assert "Traceback" not in running.said() and "should not have happened" not in running.said()


@pytest.mark.parametrize("which", ["teardown", "helper", "both"])
def test_teardown_killed_between_any_two_steps(
    bed: Rig, squid: proxies.RunningProxy, before: dict[str, str], which: str
) -> None:
    names = {"teardown": ("app",), "helper": ("helper",), "both": ("app", "helper")}[which]
    crash(bed, squid)
    for step in range(0, 100, 3):
        with stepwise(bed.host, "teardown") as run:
            if not forward(run, step):
                break
            run.kill(*names)
            run.run_on()
            code = run.process.wait(5)
            assert code == (-signal.SIGKILL if "app" in names else 1), run.said
            assert "Traceback" not in run.said
        if aftermath.condition(bed.host, before, killswitch=True) == aftermath.AS_BEFORE:
            crash(bed, squid)
    assert step > 2
    assert aftermath.check(bed.host, before, killswitch=True) == aftermath.AS_BEFORE
