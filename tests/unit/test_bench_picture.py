"""The benchmark's picture (bench/picture.py): well-formed, to scale, inside its frame."""

from __future__ import annotations

import re
from xml.etree import ElementTree

import pytest
from bench import picture, table
from bench.results import Samples

ABOUT: dict[str, object] = {
    "date": "2026-01-02 03:04 UTC",
    "cpu": "A & B <C>",
    "processors": 2,
    "kernel": "6.1.0",
    "rounds": 3,
}
SVG = "{http://www.w3.org/2000/svg}"


def drawn(samples: Samples) -> ElementTree.Element:
    return ElementTree.fromstring(picture.svg(samples, ABOUT))


def panels(samples: Samples) -> list[ElementTree.Element]:
    return drawn(samples).findall(f"{SVG}g")


def texts(element: ElementTree.Element) -> list[str]:
    return [text.text or "" for text in element.iter(f"{SVG}text")]


def bars(panel: ElementTree.Element) -> list[float]:
    return [float(bar.attrib["width"]) for bar in panel.iter(f"{SVG}rect")]


def test_picture_is_well_formed_whatever_the_names_are() -> None:
    samples = Samples({"a<b>&\"'": {"up1_gbit_s": [1.0]}})
    [panel] = panels(samples)
    assert "a<b>&\"'" in texts(panel)
    assert texts(drawn(samples))[-1].startswith("A & B <C>, 2 processors, Linux 6.1.0, 2026-01-02;")


def test_picture_of_nothing_is_a_picture() -> None:
    assert panels(Samples()) == []


def test_each_measured_figure_has_a_panel_in_the_order_of_the_list() -> None:
    samples = Samples({"proxyvpn": {name: [1.0] for name in reversed(picture.PANELS)} | {"ready_s": [1.0]}})
    assert [texts(panel)[0] for panel in panels(samples)] == [title for title, _ in picture.PANELS.values()]


def test_figure_that_nobody_has_gets_no_panel_and_a_program_without_it_no_bar() -> None:
    samples = Samples({"limit": {"up1_gbit_s": [4.0]}, "proxyvpn": {"up1_gbit_s": [2.0], "down1_gbit_s": [1.0]}})
    first, second = panels(samples)
    assert len(bars(first)) == 2
    assert len(bars(second)) == 1
    assert "proxyvpn" in texts(second)
    assert picture.NAMES["limit"] not in texts(second)


def test_bars_are_as_long_as_their_medians_and_the_largest_sample_fills_the_panel() -> None:
    samples = Samples({"limit": {"up1_gbit_s": [8.0, 6.0, 10.0]}, "proxyvpn": {"up1_gbit_s": [4.0]}})
    [panel] = panels(samples)
    assert bars(panel) == pytest.approx([picture.BAR * 0.8, picture.BAR * 0.4], abs=0.1)
    assert [texts(panel)[at] for at in (3, 5)] == ["8.00", "4.00"]


def test_whiskers_go_from_the_least_to_the_most() -> None:
    [panel] = panels(Samples({"proxyvpn": {"up1_gbit_s": [5.0, 2.0, 10.0]}}))
    [whisker] = panel.iter(f"{SVG}path")
    found = re.fullmatch(r"M([\d.]+) \d+H([\d.]+)", whisker.attrib["d"])
    assert found
    ends = [float(end) - picture.LABEL for end in found.groups()]
    assert ends == pytest.approx([picture.BAR * 0.2, picture.BAR], abs=0.1)


def test_all_zero_is_drawn_without_a_division() -> None:
    [panel] = panels(Samples({"proxyvpn": {"up1_cpu_s_per_gb": [0.0, 0.0]}}))
    assert bars(panel) == [0.0]


def test_proxyvpn_has_a_colour_of_its_own_and_yardsticks_theirs() -> None:
    samples = Samples({name: {"up1_gbit_s": [1.0]} for name in ("direct", "limit", "proxyvpn", "redsocks", "hev")})
    [panel] = panels(samples)
    colours = [bar.attrib["fill"] for bar in panel.iter(f"{SVG}rect")]
    yardstick, other = picture.YARDSTICKS, picture.OTHERS
    assert colours == [yardstick, yardstick, picture.OURS, other, other]


def test_everything_lies_within_the_frame_and_panels_apart() -> None:
    programs = ("direct", "limit", "proxyvpn", "redsocks", "hev", "sing-box", "tun2socks", "tun2proxy")
    samples = Samples({program: {name: [1.0, 2.0] for name in picture.PANELS} for program in programs})
    root = drawn(samples)
    width, height = (float(root.attrib[name]) for name in ("width", "height"))
    assert root.attrib["viewBox"] == f"0 0 {width:g} {height:g}"
    corners = set()
    for panel in root.findall(f"{SVG}g"):
        found = re.fullmatch(r"translate\((\d+) (\d+)\)", panel.attrib["transform"])
        assert found
        x, y = (int(part) for part in found.groups())
        lowest = max(float(text.attrib["y"]) for text in panel.iter(f"{SVG}text"))
        assert x + picture.WIDTH <= width
        assert y + lowest < height - 28
        corners.add((x, y))
    assert len(corners) == len(picture.PANELS)


def test_every_panel_shows_a_figure_of_the_table() -> None:
    assert set(picture.PANELS) <= set(table.ROWS)
