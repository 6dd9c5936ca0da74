"""What `status` counts: programs get several results, and every one of them is found again, in JSON and in words.

host: sockets of the test, `proxyvpn up` ---- mid: a proxy whose answers are scripted ---- world: peer.py
"""

from __future__ import annotations

import errno
import json
import socket
import threading
from typing import Any

import pytest

from tests.netns import clients, proxies, wait
from tests.netns.internet import Internet
from tests.netns.peer import ECHO, HALF, SINK
from tests.netns.rig import RESOLVER4, WORLD4, WORLD6, Rig
from tests.netns.up import proxyvpn, up

pytestmark = pytest.mark.privileged

REFUSALS = {
    b"HTTP/1.1 403 Forbidden\r\n\r\n": ("refused_status_403", 3),
    b"HTTP/1.1 407 Password, please\r\n\r\n": ("refused_status_407", 1),
    b"HTTP/1.0 504 Late\r\n\r\n": ("refused_status_504", 2),
    b"HTTP/1.1 418 Teapot\r\n\r\n": ("refused_status_other", 1),
    b"220 ftp\r\n": ("refused_garbage", 1),
    b"": ("refused_closed", 1),
}


def status(bed: Rig) -> dict[str, Any]:
    """Give what `status --json` prints."""
    found: dict[str, Any] = json.loads(proxyvpn(bed.host, "status", "--json").stdout)
    return found


def counters_when(bed: Rig, **expected: int) -> dict[str, int]:
    """Wait until `status` gives these counters; give all."""

    def probe() -> dict[str, int] | None:
        counters: dict[str, int] = status(bed)["counters"]
        return counters if all(counters[name] == value for name, value in expected.items()) else None

    return wait.until(probe, f"status says {expected}") or {}


def gauges(counters: dict[str, int]) -> dict[str, int]:
    """Give the gauges of flows that are not zero."""
    return {name: value for name, value in counters.items() if name.endswith("_now") and value}


def test_every_connect_is_counted_by_what_became_of_it(bed: Rig, world: Internet) -> None:
    with proxies.scripted(bed.mid) as proxy, up(bed.host, "--proxy", proxy.url4, "--dns", RESOLVER4):
        for host in (WORLD4, WORLD6):
            with bed.host.connect(host, SINK) as sock:
                line = clients.upload(sock, 100_000)
                sock.shutdown(socket.SHUT_WR)
                assert sock.makefile().readline() == line
        for answer, (_, times) in REFUSALS.items():
            proxy.answer = lambda _head, answer=answer: answer  # type: ignore[misc]
            for _ in range(times):
                assert clients.connect_error(bed.host, WORLD4, ECHO) == errno.ECONNREFUSED
        proxy.close()
        assert clients.connect_error(bed.host, WORLD4, ECHO) == errno.ECONNREFUSED

        counters = counters_when(bed, flows_finished=2)
        expected = {"refused_unreachable": 1, **dict(REFUSALS.values())}
        assert {name: value for name, value in counters.items() if name.startswith("refused_") and value} == expected
        assert (counters["flows_begun"], counters["flows_opened"], counters["connect_count"]) == (12, 2, 2)
        assert counters["bytes_up"] == 200_000
        assert gauges(counters) == {}
        assert counters["notes_held_back"] == 2 + 1, "403 and 504 said the same again"

        figures = status(bed)["figures"]
        assert figures["refused"]["status"]["403"] == 3
        assert figures["connect"]["under_ms"]["30000"] == figures["connect"]["count"] == 2
        text = proxyvpn(bed.host, "status").stdout
        assert "10: 7 by the proxy (3 with 403, 2 with 504, 1 with 407, 1 with another status)" in text
        assert "connect time  under" in text


def test_flows_are_counted_by_their_state_now(bed: Rig, world: Internet) -> None:
    answered = threading.Event()
    with proxies.scripted(bed.mid) as proxy, up(bed.host, "--proxy", proxy.url4, "--dns", RESOLVER4):
        with bed.host.connect(WORLD4, ECHO) as talking, bed.host.connect(WORLD4, HALF) as heard:
            assert clients.echoes(talking)
            assert heard.makefile().read() == "I have finished\n"
            proxy.answer = lambda head: proxies.honest(head) if answered.wait(10) else b""
            with bed.host.new_socket() as waiting:
                waiting.setblocking(False)
                assert waiting.connect_ex((WORLD4, ECHO)) == errno.EINPROGRESS
                counters = counters_when(bed, flows_asking_now=1, flows_half_closed_by_proxy_now=1)
                assert gauges(counters) == {
                    **{"flows_asking_now": 1, "flows_connecting_now": 1},
                    **{"flows_established_now": 1, "flows_half_closed_by_proxy_now": 1, "flows_open_now": 2},
                }
                text = proxyvpn(bed.host, "status").stdout
                assert "1 waiting for its answer, 1 open, 1 half closed by the proxy" in text
                answered.set()
                counters_when(bed, flows_asking_now=0, flows_established_now=2)
        counters = counters_when(bed, flows_connecting_now=0, flows_open_now=0)
        assert gauges(counters) == {}
