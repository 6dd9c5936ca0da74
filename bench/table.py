"""The figures of a run as text: medians with their range, and the targets beside what was reached. Pure."""

from __future__ import annotations

from bench.results import Samples
from bench.targets import TARGETS

ROWS = {
    "up1_gbit_s": "upload, 1 stream, Gbit/s",
    "up8_gbit_s": "upload, 8 streams",
    "up64_gbit_s": "upload, 64 streams",
    "down1_gbit_s": "download, 1 stream, Gbit/s",
    "down8_gbit_s": "download, 8 streams",
    "down64_gbit_s": "download, 64 streams",
    "up1_cpu_s_per_gb": "CPU s per GB, upload, 1 stream",
    "up8_cpu_s_per_gb": "CPU s per GB, upload, 8 streams",
    "down1_cpu_s_per_gb": "CPU s per GB, download, 1 stream",
    "down8_cpu_s_per_gb": "CPU s per GB, download, 8 streams",
    "connect_per_s": "connections per second, 8 clients",
    "connect_p50_us": "  one takes, p50, us",
    "connect_cpu_us": "  CPU us per connection",
    "rr1_p50_us": "request, 1 connection, p50, us",
    "rr1_p99_us": "  p99",
    "rr64_p50_us": "request, 64 connections, p50, us",
    "rr64_p99_us": "  p99",
    "beside_up_p50_ms": "request beside 10 Gbit/s up, p50, ms",
    "beside_up_p99_ms": "  p99",
    "beside_up_gbit_s": "  the upload, Gbit/s",
    "beside_down_p50_ms": "request beside 10 Gbit/s down, p50, ms",
    "beside_down_p99_ms": "  p99",
    "beside_down_gbit_s": "  the download, Gbit/s",
    "idle_kib": "memory per idle connection, KiB",
    "idle_open": "idle connections held open",
    "idle_rr_p50_us": "request beside them, p50, us",
    "idle_slowdown": "  times that without them",
    "far_up1_gbit_s": "20 ms away: upload, Gbit/s",
    "far_down1_gbit_s": "20 ms away: download, Gbit/s",
    "far_connect_p50_us": "20 ms away: connect + 1 byte, p50, us",
    "forwarded_up1_gbit_s": "forwarded: upload, Gbit/s",
    "forwarded_down1_gbit_s": "forwarded: download, Gbit/s",
    "ready_s": "from start to ready, s",
}
NAME, CELL = 38, 22


def text(samples: Samples, about: dict[str, object]) -> str:
    """Give the whole report."""
    head = f"{about['date']}, {about['cpu']}, {about['processors']} processors, Linux {about['kernel']}"
    how = f"median (min to max) of {about['rounds']} rounds of {about['seconds']} s each"
    parts = [head, how, "", *_figures(samples), "", *_targets(samples)]
    failed = [
        f"{program}: {name.removesuffix('_failed')}: {sum(found):.0f} connections failed"
        for program, figures in samples.figures.items()
        for name, found in figures.items()
        if name.endswith("_failed")
    ]
    return "\n".join(
        ["", *parts, *(["", "problems:"] if failed or samples.problems else []), *failed, *samples.problems]
    )


def number(value: float) -> str:
    """Give three significant digits, without an exponent."""
    size = abs(value)
    digits = 0 if size >= 100 else 1 if size >= 10 else 2 if size >= 1 else 3
    return f"{value:.{digits}f}"


def _figures(samples: Samples) -> list[str]:
    lines = [" " * NAME + "".join(f"{program:>{CELL}}" for program in samples.programs)]
    for name, words in ROWS.items():
        cells = [_cell(samples, program, name) for program in samples.programs]
        if any(cells):
            lines.append(f"{words:{NAME}}" + "".join(f"{cell:>{CELL}}" for cell in cells))
    return lines


def _cell(samples: Samples, program: str, name: str) -> str:
    found, median = samples.of(program, name), samples.median(program, name)
    if median is None:
        return ""
    return number(median) if len(found) == 1 else f"{number(median)} ({number(min(found))}-{number(max(found))})"


def _targets(samples: Samples) -> list[str]:
    lines = [f"{'target':44}{'wanted':>12}{'measured':>12}"]
    for target in TARGETS:
        value = target.value(samples)
        wanted = f"{'>=' if target.at_least else '<='} {target.bound:g}{target.unit}"
        measured = "-" if value is None else f"{value:.2f}{target.unit}"
        verdict = "" if value is None else "  reached" if target.is_met(value) else "  not reached"
        lines.append(f"{target.what:44}{wanted:>12}{measured:>12}{verdict}")
    return lines
