"""What proxyvpn is to reach, as ratios of medians of the same run. Pure."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from bench.results import Samples, divide

US = "proxyvpn"


@dataclass(frozen=True)
class Target:
    """A bound, and how to get what is held against it; None where it was not measured."""

    what: str
    bound: float
    at_least: bool
    value: Callable[[Samples], float | None]
    unit: str = ""

    def is_met(self, value: float) -> bool:
        """Compare a value with the bound."""
        return value >= self.bound if self.at_least else value <= self.bound


def against(name: str, other: str) -> Callable[[Samples], float | None]:
    """Compare the same figure of another program."""
    return lambda samples: samples.ratio(name, US, other)


def within(name: str, other: str) -> Callable[[Samples], float | None]:
    """Compare another figure of the same program."""
    return lambda samples: divide(samples.median(US, name), samples.median(US, other))


def own(name: str) -> Callable[[Samples], float | None]:
    """Take the figure as it is."""
    return lambda samples: samples.median(US, name)


def _streams() -> list[Target]:
    bounds = {"up1": (0.60, 1.3), "down1": (0.50, 1.1), "up8": (0.45, 1.0), "down8": (0.45, 1.0)}
    found = []
    for name, (limit, redsocks) in bounds.items():
        found.append(Target(f"{name} / limit", limit, True, against(f"{name}_gbit_s", "limit")))
        found.append(Target(f"{name} / redsocks", redsocks, True, against(f"{name}_gbit_s", "redsocks")))
    for way in ("up", "down"):
        found.append(Target(f"{way}64 / {way}8", 0.9, True, within(f"{way}64_gbit_s", f"{way}8_gbit_s")))
    return found


def _processor() -> list[Target]:
    found = []
    for other, bound in (("redsocks", 1.05), ("hev", 0.30)):
        for way in ("up", "down"):
            what = f"CPU per GB, {way}load 1 stream / {other}"
            found.append(Target(what, bound, False, against(f"{way}1_cpu_s_per_gb", other)))
    return [*found, Target("CPU per connection / redsocks", 0.68, False, against("connect_cpu_us", "redsocks"))]


def _latency() -> list[Target]:
    return [
        Target("request p50, 1 connection / limit", 1.2, False, against("rr1_p50_us", "limit")),
        Target("request p99, 1 connection / limit", 1.6, False, against("rr1_p99_us", "limit")),
        Target("request p50, 64 connections / limit", 1.3, False, against("rr64_p50_us", "limit")),
        Target("request p99, 64 connections / limit", 1.6, False, against("rr64_p99_us", "limit")),
        Target("request p99 beside bulk upload", 5, False, own("beside_up_p99_ms"), " ms"),
        Target("request p99 beside bulk download", 5, False, own("beside_down_p99_ms"), " ms"),
        Target("request p50 beside 10,000 idle / without", 1.1, False, own("idle_slowdown")),
    ]


TARGETS = [
    *_streams(),
    *_processor(),
    Target("connections per second / limit", 0.80, True, against("connect_per_s", "limit")),
    Target("connections per second / redsocks", 1.3, True, against("connect_per_s", "redsocks")),
    *_latency(),
    Target("memory per idle connection", 10, False, own("idle_kib"), " KiB"),
    Target("20 ms away: up1 / limit", 0.9, True, against("far_up1_gbit_s", "limit")),
    Target("20 ms away: down1 / limit", 0.9, True, against("far_down1_gbit_s", "limit")),
    Target("20 ms away: connect p50 / limit", 1.1, False, against("far_connect_p50_us", "limit")),
    Target("forwarded up1 / local up1", 0.8, True, within("forwarded_up1_gbit_s", "up1_gbit_s")),
    Target("forwarded down1 / local down1", 0.8, True, within("forwarded_down1_gbit_s", "down1_gbit_s")),
    Target("ready after", 0.5, False, own("ready_s"), " s"),
]
