"""The benchmark's arithmetic: medians, ratios, and the file that keeps them (bench/results.py)."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from bench import results
from bench.results import Samples, divide

ABOUT: dict[str, object] = {"date": "2026-01-02 03:04 UTC"}


def samples(**programs: dict[str, list[float]]) -> Samples:
    return Samples(figures=programs)


def test_samples_of_each_round_are_kept_in_order_under_program_and_name() -> None:
    found = Samples()
    found.add("proxyvpn", {"up": 3.0, "down": 1.0})
    found.add("limit", {"up": 9.0})
    found.add("proxyvpn", {"up": 2.0})
    assert found.programs == ["proxyvpn", "limit"]
    assert found.of("proxyvpn", "up") == [3.0, 2.0]
    assert found.of("limit", "up") == [9.0]


def test_what_was_not_measured_has_no_sample_and_no_median() -> None:
    found = samples(limit={"up": [1.0]})
    for program, name in (("limit", "down"), ("proxyvpn", "up")):
        assert found.of(program, name) == []
        assert found.median(program, name) is None


@pytest.mark.parametrize(
    ("values", "median"), [([5.0], 5.0), ([9.0, 1.0], 5.0), ([9.0, 1.0, 2.0], 2.0), ([1.0, 1.0, 100.0, 2.0], 1.5)]
)
def test_median_is_the_middle_whatever_the_order(values: list[float], median: float) -> None:
    assert samples(limit={"up": values}).median("limit", "up") == median


def test_ratio_is_that_of_the_medians_and_not_of_single_rounds() -> None:
    found = samples(proxyvpn={"up": [1.0, 2.0, 30.0]}, limit={"up": [4.0, 1.0, 40.0]})
    assert found.ratio("up", "proxyvpn", "limit") == 0.5
    assert found.ratio("up", "limit", "proxyvpn") == 2.0


def test_ratio_to_what_was_not_measured_is_none() -> None:
    found = samples(proxyvpn={"up": [1.0]}, limit={"down": [1.0]})
    assert found.ratio("up", "proxyvpn", "limit") is None
    assert found.ratio("down", "proxyvpn", "limit") is None


def test_division_wants_both_and_no_zero_below() -> None:
    assert divide(1.0, 4.0) == 0.25
    assert divide(0.0, 4.0) == 0.0
    assert divide(None, 4.0) is None
    assert divide(1.0, None) is None
    assert divide(1.0, 0.0) is None


def written(folder: Path, found: Samples) -> dict[str, object]:
    content: dict[str, object] = json.loads(results.write(folder, found, ABOUT).read_text())
    return content


def test_file_is_named_by_its_date_in_a_folder_that_is_made(tmp_path: Path) -> None:
    file = results.write(tmp_path / "new" / "folder", samples(limit={"up": [1.0]}), ABOUT)
    assert file == tmp_path / "new" / "folder" / "2026-01-02-0304.json"


def test_file_has_every_sample_with_median_least_and_most(tmp_path: Path) -> None:
    figures = written(tmp_path, samples(limit={"up": [9.0, 1.0, 2.0]}))["figures"]
    assert figures == {"limit": {"up": {"median": 2.0, "min": 1.0, "max": 9.0, "samples": [9.0, 1.0, 2.0]}}}


def test_file_has_ratios_to_both_yardsticks_of_what_both_have(tmp_path: Path) -> None:
    found = samples(
        limit={"up": [4.0]}, proxyvpn={"up": [2.0], "idle_kib": [9.0]}, redsocks={"up": [1.0], "idle_kib": [3.0]}
    )
    assert written(tmp_path, found)["ratios_to"] == {
        "limit": {"proxyvpn": {"up": 0.5}, "redsocks": {"up": 0.25}},
        "redsocks": {"limit": {"up": 4.0}, "proxyvpn": {"up": 2.0, "idle_kib": 3.0}},
    }


def test_file_without_a_yardstick_has_no_ratios_to_it(tmp_path: Path) -> None:
    assert written(tmp_path, samples(proxyvpn={"up": [2.0]}))["ratios_to"] == {}


def test_file_keeps_circumstances_and_problems(tmp_path: Path) -> None:
    found = Samples()
    found.problem("hev", "up8", "\n it died \n")
    content = written(tmp_path, found)
    assert content["about"] == ABOUT
    assert content["problems"] == ["hev, up8: it died"]
