"""The benchmark's report as text, and the targets in it (bench/table.py, bench/targets.py)."""

from __future__ import annotations

import pytest
from bench import table
from bench.results import Samples
from bench.scenarios import SCENARIOS
from bench.targets import TARGETS, Target, against, own, within

ABOUT: dict[str, object] = {
    "date": "2026-01-02 03:04 UTC",
    "cpu": "Some CPU",
    "processors": 2,
    "kernel": "6.1.0",
    "rounds": 3,
    "seconds": 1.5,
}
UP1, DOWN1 = "upload, 1 stream, Gbit/s", "download, 1 stream, Gbit/s"


def report(samples: Samples) -> list[str]:
    return table.text(samples, ABOUT).splitlines()


def line(lines: list[str], begin: str) -> str:
    found = [one for one in lines if one.startswith(begin)]
    assert len(found) == 1, (begin, found)
    return found[0]


@pytest.mark.parametrize(
    ("value", "text"),
    [(1234.5, "1234"), (100.0, "100"), (99.94, "99.9"), (10.0, "10.0"), (9.994, "9.99"), (1.0, "1.00"), (0.5, "0.500")],
)
def test_number_has_three_digits_that_matter_and_no_exponent(value: float, text: str) -> None:
    assert table.number(value) == text
    assert table.number(-value) == f"-{text}"


def test_tiny_and_huge_numbers_have_no_exponent() -> None:
    assert table.number(0.0) == "0.000"
    assert table.number(1e9) == "1000000000"


def test_cell_is_the_median_with_its_range_and_alone_where_there_was_one_round() -> None:
    samples = Samples({"limit": {"up1_gbit_s": [9.0, 1.0, 2.0], "down1_gbit_s": [4.0]}})
    lines = report(samples)
    assert line(lines, UP1).removeprefix(UP1).strip() == "2.00 (1.00-9.00)"
    assert line(lines, DOWN1).removeprefix(DOWN1).strip() == "4.00"


def test_columns_stand_below_their_programs_and_a_gap_stays_a_gap() -> None:
    figures = {"direct": {"up1_gbit_s": [30.0]}, "limit": {"down1_gbit_s": [5.0]}, "proxyvpn": {"up1_gbit_s": [7.0]}}
    lines = report(Samples(figures))
    head = next(one for one in lines if one.split() == ["direct", "limit", "proxyvpn"])
    row = line(lines, UP1)
    assert len(head) == len(row) == table.NAME + 3 * table.CELL
    ends = [head.index(name) + len(name) for name in ("direct", "limit", "proxyvpn")]
    assert row[: ends[0]].endswith("30.0")
    assert row[ends[0] : ends[1]].strip() == ""
    assert row[: ends[2]].endswith("7.00")


def test_row_that_nobody_measured_is_left_out() -> None:
    lines = report(Samples({"limit": {"up1_gbit_s": [1.0]}}))
    assert [one for one in lines if one.startswith("download,")] == []


def test_widest_cell_keeps_a_space_before_it() -> None:
    samples = Samples({"a": {"idle_open": [10000.0, 9999.0, 10000.0]}, "b": {"idle_open": [10000.0, 9999.0, 10000.0]}})
    row = line(report(samples), "idle connections held open")
    assert row.split()[4:] == 2 * ["10000", "(9999-10000)"]


def test_report_begins_with_where_and_how_it_was_measured() -> None:
    text = "\n".join(report(Samples()))
    assert "2026-01-02 03:04 UTC, Some CPU, 2 processors, Linux 6.1.0" in text
    assert "median (min to max) of 3 rounds of 1.5 s each" in text


def test_problems_and_failed_connections_are_told_and_only_then() -> None:
    assert "problems:" not in report(Samples({"limit": {"up1_gbit_s": [1.0]}}))
    samples = Samples({"hev": {"connect_failed": [3.0, 4.0]}}, ["hev, up8: it died"])
    lines = report(samples)
    assert lines[lines.index("problems:") + 1 :] == ["hev: connect: 7 connections failed", "hev, up8: it died"]


def test_targets_are_reached_not_reached_or_not_measured() -> None:
    samples = Samples({"proxyvpn": {"up1_gbit_s": [6.0], "down1_gbit_s": [1.0]}, "limit": {"up1_gbit_s": [10.0]}})
    samples.add("limit", {"down1_gbit_s": 10.0})
    lines = report(samples)
    assert line(lines, "up1 / limit").split()[3:] == [">=", "0.6", "0.60", "reached"]
    assert line(lines, "down1 / limit").split()[3:] == [">=", "0.5", "0.10", "not", "reached"]
    assert line(lines, "up1 / redsocks").split()[3:] == [">=", "1.3", "-"]


def test_target_with_a_unit_shows_it_with_both_numbers() -> None:
    row = line(report(Samples({"proxyvpn": {"idle_kib": [9.5]}})), "memory per idle connection  ")
    assert row.removeprefix("memory per idle connection").split() == ["<=", "10", "KiB", "9.50", "KiB", "reached"]


@pytest.mark.parametrize(
    ("at_least", "value", "met"),
    [(True, 1.0, True), (True, 0.99, False), (True, 1.01, True), (False, 1.0, True), (False, 1.01, False)],
)
def test_bound_itself_is_enough(at_least: bool, value: float, met: bool) -> None:
    assert Target("x", 1.0, at_least, own("x")).is_met(value) is met


def test_targets_compare_with_another_program_another_figure_or_nothing() -> None:
    samples = Samples({"proxyvpn": {"a": [6.0], "b": [3.0]}, "limit": {"a": [4.0]}})
    assert against("a", "limit")(samples) == 1.5
    assert within("a", "b")(samples) == 2.0
    assert own("b")(samples) == 3.0
    assert against("b", "limit")(samples) is within("a", "c")(samples) is own("c")(samples) is None


def names_of_scenarios() -> set[str]:
    """Every figure that the scenarios can give, but for failures."""
    beside = {name for name in SCENARIOS if name.startswith("beside")}
    streams = {name for name in SCENARIOS if "up" in name or "down" in name} - beside
    found = {f"{name}_{unit}" for name in streams for unit in ("gbit_s", "cpu_s_per_gb")}
    found |= {f"{name}_{unit}" for name in beside for unit in ("p50_ms", "p99_ms", "gbit_s")}
    found |= {f"{name}_{unit}" for name in ("connect", "far_connect") for unit in ("per_s", "p50_us", "cpu_us")}
    found |= {f"{name}_{unit}" for name in ("rr1", "rr64") for unit in ("p50_us", "p99_us")}
    return found | {"idle_kib", "idle_open", "idle_rr_p50_us", "idle_slowdown", "ready_s"}


def test_every_row_names_a_figure_that_is_measured() -> None:
    assert set(table.ROWS) <= names_of_scenarios()


def test_every_target_has_a_value_once_all_is_measured() -> None:
    everything = {name: [2.0] for name in names_of_scenarios()}
    samples = Samples(dict.fromkeys(("limit", "proxyvpn", "redsocks", "hev"), everything))
    for target in TARGETS:
        assert target.value(samples) is not None, target.what
        assert len(target.what) < 44, target.what
    assert len({target.what for target in TARGETS}) == len(TARGETS)
