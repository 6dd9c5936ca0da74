"""What becomes of the proxies' addresses when their names are looked up again: no dead or lying resolver loses one."""

from __future__ import annotations

import select
from ipaddress import ip_address

from proxyvpn import proxy, renewal
from proxyvpn.errors import ProxyUnreachable
from proxyvpn.plan import Endpoint
from proxyvpn.reach import Place
from proxyvpn.renewal import EVERY, KEEP, SOON, Found, Renewal, in_order, merged
from proxyvpn.tunnel import MOST_PROXIES

NAMED = proxy.parse("http://proxy.example:3128")
TYPED = proxy.parse("http://192.0.2.1:3128")


def place(number: int) -> Place:
    return Place(NAMED, Endpoint(ip_address(f"192.0.2.{number}"), 3128))


def test_failed_look_changes_nothing() -> None:
    assert merged((place(1),), Found((), False), {}, 0) == (place(1),)


def test_new_address_comes_first_and_the_old_one_stays() -> None:
    assert merged((place(1),), Found((place(2),), False), {}, 0) == (place(2), place(1))


def test_order_of_known_addresses_is_kept() -> None:
    both = (place(1), place(2))
    assert merged(both, Found((place(2), place(1)), True), {}, 0) == both


def test_address_that_is_not_named_goes_late_and_only_when_another_was_reached() -> None:
    seen: dict[Endpoint, float] = {}
    both = merged((place(1),), Found((place(2),), True), seen, 100)
    assert both == (place(2), place(1))
    assert merged(both, Found((place(2),), True), seen, 99 + KEEP) == both
    assert merged(both, Found((place(2),), False), seen, 100 + KEEP) == both
    assert merged(both, Found((place(2),), True), seen, 100 + KEEP) == (place(2),)


def test_there_are_never_too_many() -> None:
    many = tuple(place(number) for number in range(1, 100))
    assert len(in_order(merged(many[:8], Found(many[8:], True), {}, 0), (NAMED,))) == MOST_PROXIES


def test_proxies_keep_the_order_in_which_they_were_typed_whoever_moves() -> None:
    second = proxy.parse("http://second.example:3128")
    moved = Place(second, Endpoint(ip_address("192.0.2.20"), 3128))
    typed = Place(TYPED, Endpoint(ip_address("192.0.2.1"), 3128))
    assert in_order((moved, typed, place(1)), (NAMED, TYPED, second)) == (place(1), typed, moved)


def ends(found: Renewal) -> bool:
    return bool(select.select([found.fileno()], [], [], 5)[0])


def test_looks_are_made_in_time_and_sooner_when_connects_fail() -> None:
    looks: list[int] = []

    def look() -> Found:
        looks.append(1)
        return Found((place(2),), True)

    found = Renewal((NAMED,), look)
    found.begin(0, {})
    assert ends(found)
    assert found.take((place(1),), 0) == (place(2), place(1))
    found.begin(EVERY - 1, {"refused_unreachable": 0})
    assert len(looks) == 1
    found.begin(SOON, {"refused_unreachable": 3})
    assert ends(found)
    assert found.take((place(2), place(1)), 0) == (place(2), place(1))
    assert len(looks) == 2


def test_look_that_fails_in_its_thread_is_one_that_found_nothing() -> None:
    def look() -> Found:
        raise ProxyUnreachable("the proxy's name does not resolve")

    found = Renewal((NAMED,), look)
    found.begin(0, {})
    assert ends(found)
    assert found.take((place(1),), 0) == (place(1),)


def test_address_that_was_typed_is_never_looked_up() -> None:
    def look() -> Found:
        raise AssertionError("looked up")

    found = Renewal((TYPED,), look)
    found.begin(0, {})
    assert not select.select([found.fileno()], [], [], 0)[0]


def test_look_says_whether_a_proxy_was_reached() -> None:
    def refuse(places: tuple[Place, ...]) -> Place:
        raise ProxyUnreachable("it cannot be reached")

    assert renewal.look(lambda: (place(1),), refuse) == Found((place(1),), False)
