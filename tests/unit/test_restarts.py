"""When a worker that dies again and again is given up; no clock is needed to know."""

from __future__ import annotations

import pytest

from proxyvpn import restarts
from proxyvpn.errors import ProxyvpnError
from proxyvpn.restarts import MOST, WINDOW, Restarts


def test_more_deaths_than_most_within_the_window_are_too_many() -> None:
    found = Restarts()
    for number in range(MOST):
        found.died(100.0 + number, "by SIGSEGV")
    with pytest.raises(ProxyvpnError, match="SIGSEGV"):
        found.died(100.0 + MOST, "by SIGSEGV")
    assert found.count == MOST


def test_deaths_far_apart_are_replaced_for_ever() -> None:
    found = Restarts()
    for number in range(100):
        found.died(number * WINDOW, "by SIGSEGV")
    assert found.count == 100


@pytest.mark.parametrize(
    ("code", "says"),
    [(-9, "by SIGKILL"), (-11, "by SIGSEGV"), (-64, "by SIGRTMAX"), (-65, "by signal 65"), (1, "with code 1")],
)
def test_ending_is_said_in_words(code: int, says: str) -> None:
    assert restarts.ending(code) == says
