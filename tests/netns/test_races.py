"""`up`, `up`, `teardown` and `status` all at once: exactly one `up` at a time, and the others are told so.

host: several commands at once, with one state directory or two ---- mid: squid ---- world

PROXYVPN_RACES says how many (20), PROXYVPN_SEED from which on (0).
"""

from __future__ import annotations

import os
import random
import select
import signal
from collections import Counter
from pathlib import Path

import pytest

from tests.netns import proxies, wait
from tests.netns.dumps import difference, dump
from tests.netns.namespaces import Namespace, end
from tests.netns.rig import RESOLVER4, Rig
from tests.netns.up import PROGRAM, environment, proxyvpn

pytestmark = pytest.mark.privileged

RACES = int(os.environ.get("PROXYVPN_RACES", "20"))
SEED = int(os.environ.get("PROXYVPN_SEED", "0"))
STAGGER = 0.4
"""Seconds at most between two starts, so that `teardown` finds `up` in every phase."""
DIRECTORIES = ("/run/proxyvpn", "/run/another")


class Runner:
    """One command of a race, and what it said."""

    def __init__(self, host: Namespace, folder: Path, *words: str) -> None:
        self.words, self.verb = words, words[0]
        self._out, self._err = folder / "out", folder / "err"
        with self._out.open("wb") as out, self._err.open("wb") as err:
            self.process = host.start(PROGRAM, *words, stdout=out, stderr=err, env=environment())

    @property
    def ready(self) -> bool:
        return "ready:" in self._out.read_text()

    @property
    def code(self) -> int | None:
        return self.process.poll()

    def said(self) -> str:
        return f"{self.words}: {self.code}\n{self._out.read_text()}{self._err.read_text()}"


@pytest.mark.parametrize("teardowns", [0, 1, 2])
def test_one_wins_and_the_others_are_told(
    bed: Rig, squid: proxies.RunningProxy, tmp_path: Path, request: pytest.FixtureRequest, teardowns: int
) -> None:
    before = dump(bed.host)
    codes: Counter[str] = Counter()
    for seed in range(SEED, SEED + max(1, RACES // 3)):
        folder = tmp_path / str(seed)
        runners = race(bed.host, squid, folder, random.Random(seed), teardowns)
        request.addfinalizer(lambda r=runners: [end(each.process, signal.SIGINT, 20) for each in r])  # type: ignore[misc]
        wait.until(lambda r=runners: all(each.ready or each.code is not None for each in r), "the race is run", 30)  # type: ignore[misc]
        told = "\n".join(each.said() for each in runners)
        running = [each for each in runners if each.ready and each.code is None]
        assert len(running) <= 1, told
        assert running or teardowns, told
        if not teardowns:
            check_that_one_won(runners, told)
        for each in running:
            each.process.send_signal(signal.SIGINT)
        for each in runners:
            codes[f"{each.verb} {each.process.wait(20)}"] += 1
            assert "Traceback" not in each.said() and "should not have happened" not in each.said()
            assert each.code in CODES[each.verb], told
        assert proxyvpn(bed.host, "teardown").returncode == 0
        assert difference(before, dump(bed.host)) == "", f"seed {seed}: {told}"
    print(f"{teardowns} teardowns: {dict(codes)}")


CODES = {
    "up": (0, 7),
    "teardown": (0, 7),
    "status": (0, 1, 3, 7),
}


def race(
    host: Namespace, squid: proxies.RunningProxy, folder: Path, chance: random.Random, teardowns: int
) -> list[Runner]:
    """Start three times `up`, so many times `teardown`, and `status`, in any order."""
    verbs = ["up"] * 3 + ["teardown"] * teardowns + ["status"]
    chance.shuffle(verbs)
    runners = []
    for number, verb in enumerate(verbs):
        select.select([], [], [], chance.random() * STAGGER * (teardowns > 0))
        place = folder / str(number)
        place.mkdir(parents=True)
        more = ("--proxy", squid.url4, "--dns", RESOLVER4, chance.choice(SWITCH)) if verb == "up" else ()
        runners.append(Runner(host, place, verb, *more, "--state-dir", chance.choice(DIRECTORIES)))
    return runners


SWITCH = ("--killswitch", "--no-killswitch")


def check_that_one_won(runners: list[Runner], told: str) -> None:
    """Nobody tore down: one `up` is ready, the others ended with 7 and a sentence."""
    ups = [each for each in runners if each.verb == "up"]
    assert sorted(each.code or 0 for each in ups) == [0, 7, 7], told
    assert all("already" in each.said() for each in ups if each.code == 7), told
