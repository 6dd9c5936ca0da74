"""`kill -9` of each process, of all, between any two steps in the kernel, on the way up and on the way down.

host: `proxyvpn up`, stopped before a step (stepwise.py) ---- mid: squid ---- world
"""

from __future__ import annotations

import itertools
import signal
from collections.abc import Iterator

import pytest

from tests.netns import aftermath, proxies
from tests.netns.dumps import difference, dump
from tests.netns.rig import RESOLVER4, Rig
from tests.netns.stepwise import Stepwise, stepwise
from tests.netns.up import LONG, proxyvpn

pytestmark = pytest.mark.privileged

BOTH = pytest.mark.parametrize("killswitch", [True, False], ids=["killswitch", "open"])
VICTIMS = {"helper": ("helper",), "app": ("app",), "worker": ("worker",), "all": ("helper", "app", "worker")}
STEPS_AT_LEAST = 10
GUARD = "inet proxyvpn"
"""In the line of the step that closes the machine; when a later line waits, that step is done."""


def options(proxy: proxies.RunningProxy, killswitch: bool) -> tuple[str, ...]:
    """Give the options of every `up` here."""
    return ("--proxy", proxy.url4, "--dns", RESOLVER4, "--killswitch" if killswitch else "--no-killswitch")


@pytest.mark.parametrize("which", VICTIMS)
@BOTH
def test_killed_on_the_way_up(bed: Rig, squid: proxies.RunningProxy, killswitch: bool, which: str) -> None:
    before = dump(bed.host)
    for step in turns(which):
        with stepwise(bed.host, "up", *options(squid, killswitch)) as run:
            if not forward(run, step):
                break
            is_closed = killswitch and which in ("app", "all") and GUARD in run.said
            run.kill(*VICTIMS[which])
            after(bed, run, before, killswitch, which)
        found = aftermath.check(bed.host, before, killswitch)
        assert found == aftermath.LOCKED or not is_closed, (step, found)
    assert step > STEPS_AT_LEAST


@pytest.mark.parametrize("which", ["helper", "app", "all"])  # the worker is ended before the first step
@BOTH
def test_killed_on_the_way_down(bed: Rig, squid: proxies.RunningProxy, killswitch: bool, which: str) -> None:
    before = dump(bed.host)
    for step in turns(which):
        with stepwise(bed.host, "up", *options(squid, killswitch)) as run:
            run.run_on(lambda: "ready:" in run.printed())
            run.begin_again()
            run.process.send_signal(signal.SIGINT)
            if not forward(run, step):
                assert run.process.wait(5) == 0
                break
            run.kill(*VICTIMS[which])
            run.run_on()
            code = run.process.wait(5)
            assert code in ((0, 9) if which == "helper" else (-9,)), (code, run.said)
            if code == 0:
                assert difference(before, dump(bed.host)) == ""
        aftermath.check(bed.host, before, killswitch)
    assert step > STEPS_AT_LEAST


def turns(which: str) -> Iterator[int]:
    """Give the steps before which `which` is killed, without end: all, or its turns among the victims."""
    return itertools.count() if LONG else itertools.count(list(VICTIMS).index(which), len(VICTIMS))


def forward(run: Stepwise, steps: int) -> bool:
    """Let so many lines pass; False when there are no more."""
    for _ in range(steps):
        if not run.halts():
            return False
        run.step()
    return run.halts()


def after(bed: Rig, run: Stepwise, before: dict[str, str], killswitch: bool, which: str) -> None:
    """Let those that live go on, and check what `up` makes of it."""
    run.run_on(lambda: which == "worker" and "ready:" in run.printed())
    assert "Traceback" not in run.said
    if which == "worker" and run.process.poll() is None:  # it was replaced
        assert proxyvpn(bed.host, "status").returncode == 0
        run.process.send_signal(signal.SIGINT)
        run.run_on()
        assert run.process.wait(5) == 0, run.said
        assert difference(before, dump(bed.host)) == ""
    code = run.process.wait(5)
    wanted = {"helper": (8, 9) if killswitch else (8,), "worker": (0, 8), "app": (-9,), "all": (-9,)}[which]
    assert code in wanted, (code, run.said)
    if code == 8:
        assert difference(before, dump(bed.host)) == ""
    if code == 9:
        assert proxyvpn(bed.host, "status").returncode == 9, run.said
