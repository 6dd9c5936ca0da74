"""What the outcome of trying the proxies means, and that nobody is waited for who takes his time."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from ipaddress import ip_address

import pytest
from tests.unit.fakes import Kernel

from proxyvpn import trial
from proxyvpn.errors import CredentialsRefused, ProxyUnreachable
from proxyvpn.messages import Outcome
from proxyvpn.plan import Endpoint
from proxyvpn.proxy import Proxy
from proxyvpn.reach import Interrupted, Place
from proxyvpn.wishes import Wishes

PLACE = Place(Proxy("proxy.example", 3128, "ann", "hunter2"), Endpoint(ip_address("192.0.2.7"), 3128))
SECOND = replace(PLACE, endpoint=Endpoint(ip_address("192.0.2.8"), 3128))
FINE, WRONG, DEAD = Outcome(0, "ok", ""), Outcome(0, "wrong", "it answered 407 No"), Outcome(1, "closed", "it hung up")


@pytest.fixture
def stop() -> Iterator[tuple[int, int]]:
    reading, writing = os.pipe2(os.O_CLOEXEC)
    yield reading, writing
    os.close(reading)
    os.close(writing)


def test_one_proxy_that_can_be_spoken_to_is_enough() -> None:
    trial.judge((WRONG, DEAD, FINE), (PLACE, SECOND))
    trial.judge((), (PLACE,))


@pytest.mark.parametrize(
    ("outcome", "says"),
    [
        (WRONG, "refuses the user or the password\nit answered 407 No"),
        (Outcome(0, "credentials", "wants credentials by NTLM"), "3128 wants credentials by NTLM"),
    ],
)
def test_refused_credentials_count_more_than_a_dead_proxy(outcome: Outcome, says: str) -> None:
    with pytest.raises(CredentialsRefused) as caught:
        trial.judge((DEAD, outcome), (PLACE, SECOND))
    assert says in str(caught.value)
    assert "hunter2" not in str(caught.value)


def test_dead_proxy_is_unreachable_with_its_reason() -> None:
    with pytest.raises(ProxyUnreachable, match="it hung up"):
        trial.judge((DEAD,), (PLACE, SECOND))


def test_outcome_of_a_proxy_that_nobody_gave_is_no_crash() -> None:
    with pytest.raises(ProxyUnreachable):
        trial.judge((Outcome(7, "closed", ""),), (PLACE,))


def test_worker_is_asked_and_believed(stop: tuple[int, int]) -> None:
    kernel = Kernel(outcomes=(WRONG,))
    worker = kernel.worker()
    with pytest.raises(CredentialsRefused):
        trial.run(worker, Wishes({}), (PLACE,), stop[0])
    worker.end()


def test_signal_interrupts_the_trial(stop: tuple[int, int]) -> None:
    os.write(stop[1], b"\x02")
    worker = Kernel().worker()
    with pytest.raises(Interrupted):
        trial.run(worker, Wishes({}), (PLACE,), stop[0])
    worker.end()


def test_trial_is_for_proxies_with_credentials() -> None:
    assert trial.is_needed((PLACE,))
    bare = Proxy("proxy.example", 3128)
    assert not trial.is_needed((Place(bare, PLACE.endpoint),))
    assert trial.is_needed((Place(replace(bare, schemes=("negotiate",)), PLACE.endpoint),))
