"""A process of ours that is stopped (SIGSTOP): five seconds, a sentence, the right exit code, and nothing half done.

host: `proxyvpn up`, `status` or `teardown` with a stopped process ---- mid: squid ---- world
"""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator

import pytest

from tests.netns import aftermath, proxies, wait
from tests.netns.dumps import difference, dump
from tests.netns.rig import RESOLVER4, Rig
from tests.netns.stepwise import children, stepwise
from tests.netns.up import LONG, PROGRAM, Up, environment, gone, kill, proxyvpn, up

pytestmark = pytest.mark.privileged

PATIENCE = "it is stopped by a signal or a debugger; waited 5 s"
LONGEST = 60.0
"""Seconds for a command to end on a busy machine; what it waited is in what it says."""


@pytest.fixture
def before(bed: Rig) -> Iterator[dict[str, str]]:
    """How the machine is without a tunnel, which it must be again."""
    found = dump(bed.host)
    yield found
    proxyvpn(bed.host, "teardown")  # only after a failed test there is something to do
    assert difference(found, dump(bed.host)) == ""


def options(proxy: proxies.RunningProxy, killswitch: bool) -> tuple[str, ...]:
    """Give the options of every `up` here."""
    return ("--proxy", proxy.url4, "--dns", RESOLVER4, "--killswitch" if killswitch else "--no-killswitch")


def stop(pid: int) -> None:
    """Stop a process, and wait until it is."""
    os.kill(pid, signal.SIGSTOP)
    wait.until(lambda: _state(pid) == "T", f"{pid} is stopped")


def _state(pid: int) -> str:
    with open(f"/proc/{pid}/stat") as file:
        return file.read().rpartition(")")[2].split()[0]


@pytest.mark.parametrize(
    "case",
    [("helper", 4, True, 9), ("helper", 12, False, 8), ("worker", 2, True, 8), *([("helper", 0, True, 8)] * LONG)],
    ids=str,
)
def test_up_gives_up(
    bed: Rig, squid: proxies.RunningProxy, before: dict[str, str], case: tuple[str, int, bool, int]
) -> None:
    which, steps, killswitch, code = case
    with stepwise(bed.host, "up", *options(squid, killswitch)) as run:
        for _ in range(steps):
            assert run.halts()
            run.step()
        assert run.halts()
        stopped = run.family[which]
        stop(stopped)
        run.run_on()
        assert run.process.wait(5) == code, run.said
        assert f"the {which} process (pid {stopped}) does not answer" in run.said
        assert PATIENCE in run.said
    found = aftermath.check(bed.host, before, killswitch)
    assert found == (aftermath.LOCKED if code == 9 else aftermath.AS_BEFORE)


@pytest.mark.parametrize("killswitch", [True, *([False] * LONG)])
def test_status_of_a_stopped_helper_ends_with_a_sentence(
    bed: Rig, squid: proxies.RunningProxy, before: dict[str, str], killswitch: bool
) -> None:
    with up(bed.host, *options(squid, killswitch)) as running:
        stop(running.helper)
        done = proxyvpn(bed.host, "status")
        assert done.returncode == 1, done.stderr
        assert f"pid {running.process.pid}" in done.stderr
        assert running.wait() == (9 if killswitch else 1)
        assert "the helper process" in running.said() and PATIENCE in running.said()
    assert aftermath.check(bed.host, before, killswitch) == (aftermath.LOCKED if killswitch else aftermath.AS_BEFORE)


def test_status_of_a_stopped_worker_says_so_and_it_is_replaced(
    bed: Rig, squid: proxies.RunningProxy, before: dict[str, str]
) -> None:
    with up(bed.host, *options(squid, True)) as running:
        old = running.worker
        stop(old)
        done = proxyvpn(bed.host, "status")
        assert done.returncode == 0, done.stderr
        assert "the worker process" in done.stdout and "does not answer" in done.stdout
        wait.until(lambda: gone(old) and proxyvpn(bed.host, "status").returncode == 0, "a new worker")
        assert running.stop() == 0


@pytest.mark.parametrize("which", ["helper", "worker"])
def test_teardown_of_a_stopped_process_succeeds(
    bed: Rig, squid: proxies.RunningProxy, before: dict[str, str], which: str
) -> None:
    with up(bed.host, *options(squid, True)) as running:
        stop({"helper": running.helper, "worker": running.worker}[which])
        done = proxyvpn(bed.host, "teardown")
        assert done.returncode == 0, done.stderr
        assert running.wait() == 0


def test_stopped_up_is_given_up(bed: Rig, squid: proxies.RunningProxy, before: dict[str, str]) -> None:
    with up(bed.host, *options(squid, True)) as running:
        during = dump(bed.host)
        stop(running.process.pid)
        asking = [bed.host.start(PROGRAM, verb, stderr=subprocess.PIPE, env=environment()) for verb in VERBS]
        for each in asking:
            said = each.communicate(timeout=LONGEST)[1].decode()
            assert (each.returncode, PATIENCE in said, f"kill {running.process.pid}" in said) == (1, True, True)
        assert difference(during, dump(bed.host)) == ""
        running.process.send_signal(signal.SIGCONT)  # it then finds that it was asked to end
        assert running.wait() == 0


VERBS = ("status", "teardown")


@pytest.mark.parametrize("verb", VERBS if LONG else VERBS[1:])
def test_stopped_helper_of_status_and_teardown_is_given_up(
    bed: Rig, squid: proxies.RunningProxy, before: dict[str, str], verb: str
) -> None:
    with up(bed.host, *options(squid, True)) as running:
        crash(running)
    process = bed.host.start(PROGRAM, verb, stderr=subprocess.PIPE, env=environment())
    stop(wait.until(lambda: children(process.pid).get("helper", 0), "its helper"))  # it takes 0.1 s to be ready
    said = process.communicate(timeout=LONGEST)[1].decode()
    assert (process.returncode, "does not answer" in said, PATIENCE in said) == (1, True, True), said
    assert aftermath.check(bed.host, before, killswitch=True) == aftermath.LOCKED


def crash(running: Up) -> None:
    """Kill all three."""
    kill(running.helper, running.worker, running.process.pid)
