"""What the counters mean: grouped, and in words."""

from __future__ import annotations

import re
import socket
from collections.abc import Iterator
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest

from proxyvpn import _tunstack, figures
from proxyvpn.messages import MAX_BYTES, Counters, Standing, Start, Upstream, encode
from proxyvpn.plan import Endpoint

DOCUMENT = Path(__file__).parents[2] / "docs" / "counters.md"


@pytest.fixture(scope="module")
def stack() -> Iterator[_tunstack.Stack]:
    """A real stack, with a proxy that nobody asks."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        proxy = Upstream(Endpoint(ip_address("192.0.2.7"), 3128), "proxy.example")
        stack = _tunstack.Stack(Start((proxy,), 0), {})
        stack.carry([theirs.fileno()])
        try:
            yield stack
        finally:
            stack.stop()


@pytest.fixture(scope="module")
def ordered(stack: _tunstack.Stack) -> list[str]:
    """The names of its counters."""
    return list(stack.counters())


@pytest.fixture(scope="module")
def names(ordered: list[str]) -> set[str]:
    """The same, as a set."""
    return set(ordered)


def leaves(value: Any) -> Iterator[int]:
    """Give all numbers in a map of maps."""
    if isinstance(value, int):
        yield value
    else:
        for item in value.values():
            yield from leaves(item)


def test_document_lists_what_the_stack_counts(names: set[str]) -> None:
    assert set(re.findall(r"^\| `(\w+)` \|", DOCUMENT.read_text(), re.MULTILINE)) == names


def test_document_lists_what_the_stack_counts_of_each_proxy(stack: _tunstack.Stack) -> None:
    ((address, port, state, seconds, counters),) = stack.standings()
    assert (address, port, state, seconds) == ("192.0.2.7", 3128, "up", 0)
    assert set(re.findall(r"^\| \*\*`(\w+)`\*\* \|", DOCUMENT.read_text(), re.MULTILINE)) == set(counters)


def test_largest_counters_leave_room_in_a_message(stack: _tunstack.Stack, names: set[str]) -> None:
    most = (1 << 64) - 1
    counters = dict.fromkeys(stack.standings()[0][4], most)
    standing = Standing(
        Endpoint(ip_address("2001:db8:1111:2222:3333:4444:5555:6666"), 65535), "slow start", most, counters
    )
    assert len(encode(Counters(dict.fromkeys(names, most), (standing,) * 8))) < MAX_BYTES // 2


@pytest.mark.parametrize(
    ("state", "counters", "line"),
    [
        ("up", {}, "up; 0 flows, 0 of 0 connects opened"),
        (
            "down",
            {"flows_now": 2, "opened": 4, "connects": 9, "connect_sum_us": 22_000, "timeout": 1, "closed": 1}
            | {"refused_4xx": 2, "refused_407": 1, "downs": 1},
            "down for 7 s; 2 flows, 4 of 9 connects opened in 6 ms on average, 2 failed, 3 refused, 1 time down",
        ),
    ],
)
def test_line_of_a_proxy_says_how_it_is_and_what_became_of_its_connects(
    state: str, counters: dict[str, int], line: str
) -> None:
    assert figures.standing_line(state, "7 s", counters) == line


def test_bounds_and_statuses_ascend_in_the_groups(ordered: list[str]) -> None:
    found = figures.grouped(dict.fromkeys(ordered, 0))
    for numbers in (
        list(found["connect"]["under_ms"]),
        [name for name in found["refused"]["status"] if name != "other"],
    ):
        assert len(numbers) > 10
        assert numbers == sorted(numbers, key=int)


def test_every_counter_is_at_one_place_of_the_groups(names: set[str]) -> None:
    numbers = {name: number for number, name in enumerate(sorted(names))}
    found = figures.grouped(numbers)
    assert sorted(leaves(found)) == list(range(len(names)))
    assert "other" not in found


def test_groups_are_where_the_document_says() -> None:
    counters = {"flows_established_now": 1, "flows_opened": 2, "refused_status_403": 3, "connect_under_50_ms": 4}
    assert figures.grouped({**counters, "new_thing": 5}) == {
        "flows": {"now": {"established": 1}, "opened": 2},
        "refused": {"status": {"403": 3}},
        "connect": {"under_ms": {"50": 4}},
        "other": {"new_thing": 5},
    }
    paths = re.findall(r"`\.figures\.([\w.]+)", DOCUMENT.read_text())
    assert {path.split(".")[0] for path in paths} == {"flows", "refused", "connect"}


def test_every_reason_and_state_has_words(names: set[str]) -> None:
    for name in names:
        if name.startswith("refused_"):
            words = figures.refused_line({name: 7}).removeprefix("7: 7 ")
            assert " " in words, name
        elif re.fullmatch(r"flows_(?!connecting|open|established).*_now", name):
            assert figures.states_line({name: 7}), name


@pytest.mark.parametrize(
    ("counters", "expected"),
    [
        ({}, ""),
        ({"refused_timeout": 0, "refused_status_403": 0}, ""),
        ({"refused_status_403": 10, "refused_timeout": 2}, "12: 10 by the proxy (403), 2 timed out"),
        ({"refused_status_403": 1, "refused_timeout": 2}, "3: 2 timed out, 1 by the proxy (403)"),
        ({"refused_status_502": 1, "refused_status_407": 4}, "5: 5 by the proxy (4 with 407, 1 with 502)"),
        ({"refused_status_other": 1}, "1: 1 by the proxy (another status)"),
        ({"refused_by_magic": 3}, "3: 3 by magic"),
    ],
)
def test_refusals_are_told_by_reason(counters: dict[str, int], expected: str) -> None:
    assert figures.refused_line(counters) == expected


@pytest.mark.parametrize(
    ("counters", "expected"),
    [
        ({"flows_established_now": 0}, ""),
        ({"flows_established_now": 5, "flows_open_now": 5}, ""),
        ({"flows_asking_now": 1, "flows_established_now": 5}, "1 waiting for its answer, 5 open"),
        ({"flows_half_closed_by_client_now": 2}, "2 half closed by the program"),
    ],
)
def test_states_are_told_when_not_all_is_open(counters: dict[str, int], expected: str) -> None:
    assert figures.states_line(counters) == expected


@pytest.mark.parametrize(
    ("quicker", "expected"),
    [
        ((0, 0, 0, 0), ""),
        ((100, 100, 100, 100), "under 1 ms for nine of ten"),
        ((49, 89, 90, 100), "under 20 ms for half, under 2 s for nine of ten"),
        ((50, 90, 100, 100), "under 1 ms for half, under 20 ms for nine of ten"),
        ((10, 20, 60, 100), "under 2 s for half, over 2 s for nine of ten"),
        ((0, 0, 0, 1), "over 2 s for nine of ten"),
    ],
)
def test_connect_time_is_told_as_a_bound_that_holds(quicker: tuple[int, ...], expected: str) -> None:
    names = ("connect_under_1_ms", "connect_under_20_ms", "connect_under_2000_ms", "connect_count")
    assert figures.connect_line(dict(zip(names, quicker, strict=True))) == expected


def test_warm_connections_and_drops_are_told_where_there_were_any() -> None:
    assert figures.warm_line({"pool_hits": 0, "pool_made": 0}) == ""
    line = figures.warm_line({"pool_hits": 5, "pool_stale": 1, "pool_made": 9, "pool_idle_now": 2})
    assert line == "4 of 9 connections that were made in advance were used, 2 wait"
    assert figures.dropped_by_tun_line({"tun_dropped": 0}) == ""
    assert figures.dropped_by_tun_line({"tun_dropped": 1}) == "1 packet not taken by the kernel"
