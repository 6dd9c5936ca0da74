"""Run the benchmark: rounds, in each every scenario, in each every program, so that a noisy moment meets them all.

python -m bench.run [--short] [--rounds N] [--seconds S] [--scenario NAME]... [--program NAME]... [--svg FILE]
"""

from __future__ import annotations

import argparse
import contextlib
import os
import platform
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path

from bench import picture, results, table
from bench.contestants import BY_ENVIRONMENT, Contestant, available
from bench.results import Samples
from bench.scenarios import SCENARIOS, Subject, ready
from bench.stage import ROOT, stage

DESCRIPTORS = 100_000
FULL_ROUNDS, FULL_BUDGET_S = 3, 480.0
SHORT_ROUNDS, SHORT_BUDGET_S = 2, 60.0


def main() -> int:
    """Measure, print the table, write the JSON file and the picture."""
    wish = arguments()
    if os.geteuid() != 0:
        sys.exit("bench: network namespaces need root")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # ends what it started, as Ctrl-C does
    allow_descriptors()
    contestants = {name: one for name, one in available().items() if not wish.program or name in wish.program}
    scenarios = [name for name in SCENARIOS if not wish.scenario or name in wish.scenario]
    rounds = wish.rounds or (SHORT_ROUNDS if wish.short else FULL_ROUNDS)
    seconds = wish.seconds or seconds_each(wish.short, rounds * len(contestants) * len(SCENARIOS))
    samples = Samples()
    for number in range(rounds):
        say(f"round {number + 1} of {rounds}: {', '.join(contestants)}; {seconds:.1f} s each")
        one_round(contestants, scenarios, seconds, samples)
    about = circumstances(rounds, seconds)
    print(table.text(samples, about))
    say(f"figures: {results.write(ROOT / 'bench/results', samples, about)}")
    if wish.svg:
        Path(wish.svg).write_text(picture.svg(samples, about))
        say(f"picture: {wish.svg}")
    return 0


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="scripts/bench.sh", description="Measure proxyvpn beside its peers.")
    parser.add_argument("--short", action="store_true", help="under two minutes")
    parser.add_argument("--rounds", type=int)
    parser.add_argument("--seconds", type=float, help="how long each load lasts")
    parser.add_argument("--scenario", action="append", choices=list(SCENARIOS), help="these only")
    parser.add_argument("--program", action="append", choices=list(available()), help="these only")
    parser.add_argument("--svg", metavar="FILE", help="draw the figures")
    return parser.parse_args()


def allow_descriptors() -> None:
    """Let all that is started have enough descriptors, or as many as the machine grants."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    with contextlib.suppress(ValueError):  # without CAP_SYS_RESOURCE
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(hard, DESCRIPTORS), max(hard, DESCRIPTORS)))


def seconds_each(short: bool, loads: int) -> float:
    """Share the time among the loads; each warms up for a fifth of its length."""
    budget = SHORT_BUDGET_S if short else FULL_BUDGET_S
    return min(3.0, max(0.3, budget / loads / 1.2))


def one_round(contestants: dict[str, Contestant], scenarios: list[str], seconds: float, samples: Samples) -> None:
    """Set everything up anew, and run each scenario with each program."""
    with tempfile.TemporaryDirectory(prefix="proxyvpn-bench.") as folder, contextlib.ExitStack() as close:
        scene = close.enter_context(stage(Path(folder) / "spaces"))
        subjects: dict[str, Subject] = {}
        for name, contestant in contestants.items():
            at = scene.machine(name, direct=name == "direct")
            try:
                subjects[name], figures = close.enter_context(ready(contestant, at, seconds))
            except (RuntimeError, OSError, AssertionError) as why:
                samples.problem(name, "start", str(why))
                continue
            samples.add(name, figures)
        for scenario in scenarios:
            for name, subject in subjects.items():
                try:
                    samples.add(name, SCENARIOS[scenario](subject))
                except (RuntimeError, OSError, ValueError, subprocess.TimeoutExpired) as why:
                    samples.problem(name, scenario, str(why))
        for subject in subjects.values():
            for line in (subject.at.folder / "log").read_text(errors="replace").splitlines() if subject.pid else ():
                if "panic" in line.lower():
                    samples.problem(subject.at.name, "log", line)


def circumstances(rounds: int, seconds: float) -> dict[str, object]:
    """Say where and how this was measured."""
    models = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    versions = {"proxyvpn": version(str(ROOT / ".venv/bin/proxyvpn"), "--version")}
    if redsocks := shutil.which("redsocks", path="/usr/sbin:/usr/bin"):
        versions["redsocks"] = version(redsocks, "-v")
    for name, variable in BY_ENVIRONMENT.items():
        if program := os.environ.get(variable):
            versions[name] = version(program, "version" if name == "sing-box" else "--version")
    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "kernel": platform.release(),
        "cpu": models[0].partition(":")[2].strip() if models else platform.machine(),
        "processors": len(os.sched_getaffinity(0)),
        "load_average": os.getloadavg()[2],
        "descriptors": resource.getrlimit(resource.RLIMIT_NOFILE)[0],
        "rounds": rounds,
        "seconds": round(seconds, 2),
        "versions": versions,
    }


def version(*command: str) -> str:
    """Give the first line that a program says of its version."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=5, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return "unknown"
    return ((done.stdout + done.stderr).strip() or "unknown").splitlines()[0]


def say(words: str) -> None:
    """Tell how far it is."""
    print(f"{time.strftime('%H:%M:%S')} {words}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
