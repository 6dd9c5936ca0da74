"""A child that does not answer in time: it is told to end, and its late answer is mistaken for no other."""

from __future__ import annotations

import select
from collections.abc import Iterator

import pytest

from proxyvpn.channel import Channel
from proxyvpn.children import ChildGone, Helper
from proxyvpn.messages import Close, Closed, Opened


class Ended:
    """A process that ends as soon as it is waited for."""

    pid = 4242

    def wait(self, timeout: float | None = None) -> int:  # noqa: ARG002
        return 0

    def kill(self) -> None:
        raise AssertionError("it had ended")


@pytest.fixture
def pair() -> Iterator[tuple[Helper, Channel]]:
    """A helper as `up` sees it, given up after it was silent, and its own end of the socket."""
    ours, theirs = Channel.pair()
    helper, other = Helper(ours, Ended()), Channel(theirs)
    other.send(Closed((), ()))
    helper.take(Closed)  # it has started
    with pytest.raises(ChildGone, match="does not answer"):
        helper.take(Opened, 0.01)
    yield helper, other
    helper.end()
    other.close()


def test_child_that_is_late_sees_end_of_file_and_cannot_answer_any_more(pair: tuple[Helper, Channel]) -> None:
    helper, other = pair
    with pytest.raises(ChildGone):
        helper.ask(Close(), Closed)
    assert other.receive() is None, "not Close: with the killswitch the machine then stays locked, as is said"
    with pytest.raises(BrokenPipeError):
        other.send(Opened("pvpn0"))


def test_child_that_was_given_up_looks_ended_to_whoever_waits_on_it(pair: tuple[Helper, Channel]) -> None:
    assert select.select([pair[0].fileno()], [], [], 1)[0]
