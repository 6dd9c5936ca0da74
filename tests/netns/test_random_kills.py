"""`kill -9` at moments that nobody chose: of one process or of all, while `up` starts, runs, ends or is torn down.

host: `proxyvpn up` ---- mid: squid ---- world

PROXYVPN_KILLS says how many (20), PROXYVPN_SEED from which moments on (0); a failure names its seed.
"""

from __future__ import annotations

import contextlib
import os
import random
import select
import signal
import subprocess
import time
from collections import Counter
from dataclasses import dataclass

import pytest

from tests.netns import aftermath, proxies, wait
from tests.netns.dumps import difference, dump
from tests.netns.rig import RESOLVER4, Rig
from tests.netns.stepwise import children
from tests.netns.up import PROGRAM, environment, gone, proxyvpn, up

pytestmark = pytest.mark.privileged

KILLS = int(os.environ.get("PROXYVPN_KILLS", "20"))
SEED = int(os.environ.get("PROXYVPN_SEED", "0"))


def test_killed_at_any_moment(bed: Rig, squid: proxies.RunningProxy) -> None:
    before = dump(bed.host)
    found: Counter[str] = Counter()
    usual = whole_life(bed, squid)
    for seed in range(SEED, SEED + KILLS):
        chance = random.Random(seed)
        killswitch = chance.random() < 0.5
        words = ("--proxy", squid.url4, "--dns", RESOLVER4, "--killswitch" if killswitch else "--no-killswitch")
        try:
            which = one(bed, chance, words, usual)
            found[f"{which}: {aftermath.check(bed.host, before, killswitch)}"] += 1
        except AssertionError as error:
            raise AssertionError(f"seed {seed}: {error}") from error
    print(f"{KILLS} kills from seed {SEED} on: {dict(sorted(found.items()))}")


@dataclass(frozen=True, slots=True)
class Usual:
    """Seconds that a whole start takes on this machine, and a whole end: within them moments are chosen."""

    start: float
    end: float


def whole_life(bed: Rig, squid: proxies.RunningProxy) -> Usual:
    """Measure them once."""
    begun = time.monotonic()
    with up(bed.host, "--proxy", squid.url4, "--dns", RESOLVER4, "--killswitch") as running:
        ready = time.monotonic()
        assert running.stop() == 0
    return Usual(ready - begun, time.monotonic() - ready)


def one(bed: Rig, chance: random.Random, words: tuple[str, ...], usual: Usual) -> str:
    """Start `up`, kill at some moment, and wait until all of it has ended; say what was killed when."""
    path = bed.host.home / "random.err"
    reading, writing = os.pipe2(os.O_CLOEXEC)
    with path.open("wb") as err, open(reading, "rb") as out:
        process = bed.host.start(PROGRAM, "up", *words, stdout=writing, stderr=err, env=environment())
        os.close(writing)
        when, ending = chance.choice(("starting", "ending", "torn down")), None
        if when == "starting":
            pause(chance.random() * usual.start * 1.2)
        else:
            assert out.readline().startswith(b"ready:"), path.read_text()
            pause(0.05 * chance.random())
            ending = end(bed, process, when)
            pause(chance.random() * usual.end * 1.2)
        family = {"app": process.pid, **children(process.pid)}
        which = chance.choice((*family, "all"))
        victims = (which,) if which != "all" else chance.sample(tuple(family), len(family))
        for name in victims:
            with contextlib.suppress(ProcessLookupError):
                os.kill(family[name], signal.SIGKILL)
        if process.poll() is None:
            process.send_signal(signal.SIGINT)
        process.wait(20)
        for pid in family.values():
            wait.until(lambda pid=pid: gone(pid), f"{pid} ends", 15)  # type: ignore[misc]
        if ending is not None:
            ending.wait(20)
            assert ending.returncode in (0, 1, 7, 9), ending.returncode
    assert "Traceback" not in path.read_text() and "should not have happened" not in path.read_text()
    return f"{which} while {when}"


def end(bed: Rig, process: subprocess.Popen[bytes], when: str) -> subprocess.Popen[bytes] | None:
    """Begin the end of a tunnel."""
    if when == "torn down":
        return bed.host.start(PROGRAM, "teardown", stderr=subprocess.DEVNULL, env=environment())
    process.send_signal(signal.SIGINT)
    return None


def pause(seconds: float) -> None:
    """Let a moment pass: the one place where not knowing what happens meanwhile is what is wanted."""
    select.select([], [], [], seconds)


def test_teardown_killed_at_any_moment(bed: Rig, squid: proxies.RunningProxy) -> None:
    before = dump(bed.host)
    for seed in range(SEED, SEED + max(3, KILLS // 10)):
        chance = random.Random(seed)
        done = proxyvpn(bed.host, "up", "--proxy", squid.url4, "--dns", RESOLVER4, "--killswitch", "--detach")
        assert done.returncode == 0, done.stderr
        app = int(proxyvpn(bed.host, "status", "--json").stdout.partition('"pid": ')[2].partition(",")[0])
        for pid in (*children(app).values(), app):
            os.kill(pid, signal.SIGKILL)
        wait.until(lambda app=app: gone(app), "up is gone")  # type: ignore[misc]
        process = bed.host.start(PROGRAM, "teardown", stderr=subprocess.DEVNULL, env=environment())
        pause(chance.random() * 0.5)
        family = {"teardown": process.pid, **children(process.pid)}
        for name in chance.choice((*((each,) for each in family), tuple(family))):
            with contextlib.suppress(ProcessLookupError):
                os.kill(family[name], signal.SIGKILL)
        process.wait(10)
        for pid in family.values():
            wait.until(lambda pid=pid: gone(pid), f"{pid} ends")  # type: ignore[misc]
        assert aftermath.check(bed.host, before, killswitch=True) in (aftermath.LOCKED, aftermath.AS_BEFORE), seed
    assert difference(before, dump(bed.host)) == ""
