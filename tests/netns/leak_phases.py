"""The columns of the leak matrix: what happens to the machine and to the tunnel while everything is offered.

Each phase begins with a control, brings a tunnel up, does something to it, waits until every row has been offered, and
puts the machine in order again. What is counted is all from `ready:` on (in two phases: from or until the guard).
"""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from ipaddress import ip_address
from pathlib import Path
from typing import Final

from proxyvpn.channel import close_all
from proxyvpn.messages import Update
from proxyvpn.plan import Endpoint, Tunnel
from tests.netns import kernel_support, wait
from tests.netns.leak_matrix import GATEWAY4, GATEWAY6, Bench, Cells, Mark
from tests.netns.rig import HOST6, MID4, MID6, RESOLVER4, RESOLVER6
from tests.netns.up import Up, gone, kill, proxyvpn, up

Phase = Callable[[Bench], Cells]
Event = Callable[[Bench, Up], None]

_GUARDED: Final = "[#] ip tuntap add"
"""The step after the guard and the flush of neighbours: when it is said, the guard stands."""
_OPENED: Final = ("[#] nft delete table", "(without our chains)")
"""Said before the guard is removed."""
_ANOTHER_GATEWAY: Final = f"""
ip route replace default via {GATEWAY4} dev eth0; ip -6 route replace default via {GATEWAY6} dev eth0
"""
_BACK: Final = f"""
ip route replace default via {MID4} dev eth0; ip -6 route replace default via {MID6} dev eth0
"""
_FLAP: Final = f"""
ip link set eth0 down; ip link set eth0 up
ip address replace {HOST6}/64 dev eth0 nodad
"""
_PUSHED: Final = f"""
ip route add 198.51.100.0/25 via {MID4} dev eth0; ip -6 route add 2001:db8:99::/65 via {MID6} dev eth0
"""
_PULLED: Final = """
ip route del 198.51.100.0/25; ip -6 route del 2001:db8:99::/65
"""
_IPTABLES: Final = """
for kind in nft legacy; do for program in iptables ip6tables; do for table in filter mangle nat raw; do
    $program-$kind -t $table -F && $program-$kind -t $table -X
done; done; done
"""


def options(bench: Bench) -> tuple[str, ...]:
    """Give the options of every `up` here."""
    switch = "--killswitch" if bench.killswitch else "--no-killswitch"
    return ("--proxy", bench.proxy, switch, *(bench.more or ("--dns", RESOLVER4)))


@contextlib.contextmanager
def tunnel(bench: Bench) -> Iterator[Up]:
    """Run `up` after a control, and leave the machine open and clean."""
    bench.control()
    try:
        with up(bench.bed.host, *options(bench), before=bench.before) as running:
            yield running
    finally:
        done = proxyvpn(bench.bed.host, "teardown", before=bench.before)
        assert done.returncode == 0, done.stderr


def happening(event: Event, restore: str = "") -> Phase:
    """Give the phase in which `event` happens to a running tunnel; `restore` is what mends the machine afterwards."""

    def phase(bench: Bench) -> Cells:
        with tunnel(bench) as running:
            begun = bench.mark()
            event(bench, running)
            bench.hammer()
            found = bench.since(begun)
        bench.bed.host.sh(restore)
        return found

    return phase


def script(commands: str) -> Event:
    """Give the event in which another program of the machine runs these commands."""
    return lambda bench, _running: ignored(bench.bed.host.sh(commands))


def killing(*names: str) -> Event:
    """Give the event in which processes of the tunnel get SIGKILL; a helper that lives on is waited for."""

    def event(bench: Bench, running: Up) -> None:
        pids = {"worker": running.worker, "helper": running.helper, "app": running.process.pid}
        kill(*(pids[name] for name in names))
        if names == ("worker",):
            wait.until(lambda: running.worker != pids["worker"], "a new worker")
            return
        running.wait()
        wait.until(lambda: all(gone(pid) for pid in pids.values()), "all processes have ended")

    return event


def direct_again(event: Event) -> Event:
    """Give the event after which the detector must see every row again, without a teardown."""

    def after(bench: Bench, running: Up) -> None:
        event(bench, running)
        bench.control()

    return after


def after_crash(bench: Bench) -> Cells:
    """Crash without the killswitch, so that everything goes directly, then bring a tunnel up over what is left."""
    bench.killswitch = False
    bench.control()
    with up(bench.bed.host, *options(bench), before=bench.before) as running:
        killing("helper", "worker", "app")(bench, running)
    bench.killswitch = True
    return happening(script(""))(bench)


def during_up(bench: Bench) -> Cells:
    """Count from the moment the guard stands."""
    guarded: list[Mark] = []
    number = len(list(bench.bed.host.home.glob("up-*.out")))
    said = bench.bed.host.home / f"up-{number}.err"
    watcher = threading.Thread(target=lambda: guarded.append(_mark_when(bench, said, _GUARDED)))
    watcher.start()
    with tunnel(bench):
        watcher.join()
        bench.hammer(max(100, bench.packets // 10))
        return bench.since(guarded[0])


def during_down(bench: Bench) -> Cells:
    """Count until the guard is removed, by the last look before that was said."""
    with tunnel(bench) as running:
        begun = bench.mark()
        bench.hammer(max(100, bench.packets // 10))
        running.process.send_signal(signal.SIGINT)
        last = bench.mark()
        while not any(line in running.said() for line in _OPENED):
            later = bench.mark()
            if any(line in running.said() for line in _OPENED):
                break
            last = later
        running.wait()
    return begun.until(last)


def updating(bench: Bench) -> Cells:
    """Replace the resolvers again and again, as often as the helper can."""
    bench.control()
    host = bench.bed.host
    resolvers = (ip_address(RESOLVER4), ip_address(RESOLVER6))
    port = int(bench.proxy.rpartition(":")[2])
    proxies = (Endpoint(ip_address(MID4), port), Endpoint(ip_address(MID6), port))
    helper = kernel_support.helper_in(host, host.home / "updated.log", *bench.ways)
    try:
        _, queues = helper.open(Tunnel(proxies, resolvers[:1], (), bench.killswitch, 1))
        close_all(queues)
        helper.engage()
        begun = bench.mark()
        hammering = threading.Thread(target=bench.hammer)
        hammering.start()
        while hammering.is_alive():
            for chosen in (resolvers, resolvers[1:], (), resolvers[:1]):
                helper.update(Update(chosen, proxies))
        hammering.join()
        found = bench.since(begun)
        helper.close()
    finally:
        helper.end()
    return found


def ignored(_: object) -> None:
    """Say that a result does not matter."""


def _mark_when(bench: Bench, file: Path, text: str) -> Mark:
    wait.until(lambda: file.exists() and text in file.read_text(errors="replace"), f"up says {text}", 30)
    return bench.mark()


PHASES: Final[dict[str, Phase]] = {
    "during up": during_up,
    "steady": happening(script("")),
    "resolvers replaced": updating,
    "worker killed": happening(killing("worker")),
    "helper killed": happening(killing("helper")),
    "app killed": happening(killing("app")),
    "all killed": happening(killing("helper", "worker", "app")),
    "TUN set down": happening(script("ip link set pvpn0 down")),
    "uplink down and up": happening(script(_FLAP + _BACK)),
    "default route replaced": happening(script(_ANOTHER_GATEWAY), _BACK),
    "DHCP option 121": happening(script(_PUSHED), _PULLED),
    "iptables -F": happening(script(_IPTABLES)),
    "nft flush ruleset": happening(script("nft flush ruleset")),
    "up after a crash": after_crash,
    "during down": during_down,
}
