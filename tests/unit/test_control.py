"""`status` and `teardown` against a running `up`, a dead one and none."""

from __future__ import annotations

import concurrent.futures
import json
import os
import select
import socket
from collections.abc import Iterator
from dataclasses import replace
from ipaddress import ip_address
from pathlib import Path

import pytest
from tests.unit.fakes import KILLSWITCH, OPTIONS, Kernel, Stage, refused
from tests.unit.test_app import HERE, Running
from tests.unit.test_state import RECORD

from proxyvpn import control, report, teardown
from proxyvpn.errors import AlreadyUp, Exit, ProxyvpnError, StateError
from proxyvpn.messages import Ask, Close, Count, Down, Reclaim, Reclaimed, Report, Standing
from proxyvpn.plan import Endpoint
from proxyvpn.report import Condition
from proxyvpn.state import StateDir


@pytest.fixture
def state(tmp_path: Path) -> Iterator[StateDir]:
    deep = tmp_path / ("d" * 120)  # longer than sockaddr_un can hold
    found = StateDir.open(deep, create=True)
    assert found is not None
    with found:
        yield found


def test_running_up_reports(state: StateDir) -> None:
    running = Running(OPTIONS, state, Stage())
    found = running.condition()
    assert (found.state, found.pid) == ("up", os.getpid())
    assert found.report is not None
    assert found.report.dropped == 17
    assert found.report.proxies == ("http://ann:***@proxy.example:3128",)
    assert running.end() is Exit.OK


def test_teardown_ends_a_running_up(state: StateDir) -> None:
    running = Running(KILLSWITCH, state, Stage())
    said: list[str] = []
    assert teardown.end(state, running.stage.kernel.helper, said.append) is Exit.OK
    assert running.outcome() is Exit.OK
    assert said == ["ended; 2 steps undone"]
    assert running.stage.kernel.asked[-1] == "Close"
    assert state.read() is None
    assert control.connect(state) is None


def test_second_teardown_finds_that_the_first_has_done_it(state: StateDir) -> None:
    listener = control.Control.listen(state)
    said: list[str] = []
    with concurrent.futures.ThreadPoolExecutor() as pool:
        late = pool.submit(teardown.end, state, Kernel().helper, said.append)
        assert select.select(listener.filenos(), [], [], 10)[0]
        listener.close()  # an `up` that ends with somebody still waiting to ask
        assert late.result(10) is Exit.OK
    assert said == ["nothing to do: no tunnel is running and nothing was left behind"]


def test_silent_and_rude_clients_do_not_stop_the_service(state: StateDir) -> None:
    running = Running(OPTIONS, state, Stage())
    connections = [control.connect(state) for _ in range(5)]
    channels = [found[0] for found in connections if found is not None]
    channels[0].send(Count())
    channels[1].close()
    with socket.socket(fileno=os.dup(channels[2].fileno())) as raw:
        raw.send(b"\xff" * 40_000)
    channels[3].send(Ask(), (0,))
    assert running.condition().state == "up"
    assert channels[0].receive() is None
    assert running.end() is Exit.OK
    for index in (0, 2, 3, 4):
        channels[index].close()


def test_up_that_does_not_answer_is_named_by_its_pid(state: StateDir) -> None:
    state.lock()
    listening = control.Control.listen(state)
    connected = control.connect(state)
    assert connected is not None
    with pytest.raises(ProxyvpnError) as caught:
        teardown.answer(connected[0], connected[1].pid, Down(), 0.01)
    assert f"kill {os.getpid()}" in caught.value.advice
    listening.close()


def test_dead_socket_counts_as_not_running(state: StateDir) -> None:
    state.lock()
    control.Control.listen(state).close()
    assert control.connect(state) is None
    assert teardown.condition(state, HERE, Kernel().helper).state == "down"
    control.Control.listen(state).close()


@pytest.mark.parametrize(("locked", "code"), [(True, Exit.LOCKED), (False, Exit.NOT_RUNNING)])
def test_status_as_root_believes_the_kernel(state: StateDir, locked: bool, code: Exit) -> None:
    kernel = Kernel(locked=locked, left=("table inet proxyvpn",))
    found = teardown.condition(state, HERE, kernel.helper)
    assert teardown.exit_code(found) is code
    assert found.left == ("table inet proxyvpn",)
    assert kernel.helpers[0].wait(1) == 0


def test_status_without_privilege_shows_the_record(state: StateDir) -> None:
    state.write(RECORD)
    here = teardown.Here(RECORD.boot_id, privileged=False)
    assert teardown.condition(state, here, Kernel().helper).state == "locked"
    after_reboot = teardown.Here("another boot", privileged=False)
    assert teardown.condition(state, after_reboot, Kernel().helper).state == "down"
    assert teardown.condition(None, here, Kernel().helper).state == "down"


def test_status_of_a_corrupt_record_says_how_to_mend_it(state: StateDir) -> None:
    (state.path / "state.json").write_text("{")
    with pytest.raises(StateError, match="teardown"):
        teardown.condition(state, replace(HERE, privileged=False), Kernel().helper)
    found = teardown.condition(state, HERE, Kernel(locked=True).helper)
    assert (found.state, found.record) == ("locked", None)
    assert "`proxyvpn teardown` mends it" in found.notes[0]


def test_teardown_needs_no_disk_that_can_be_written(state: StateDir) -> None:
    for name in ("lock", "state.json"):  # a directory in a file's place can neither be opened nor unlinked
        (state.path / name).mkdir()
    said: list[str] = []
    assert teardown.end(state, Kernel(left=("rule",)).helper, said.append) is Exit.OK
    assert said[0].endswith("going on without") and said[-1] == "removed: rule"


def test_teardown_after_a_crash_prints_what_it_removed(state: StateDir) -> None:
    state.write(RECORD)
    said: list[str] = []
    assert teardown.end(state, Kernel(left=("rule 5200", "route")).helper, said.append) is Exit.OK
    assert said == ["removed: rule 5200", "removed: route"]
    assert state.read() is None
    assert control.connect(state) is None


def test_teardown_works_without_a_record_and_with_a_corrupt_one(state: StateDir) -> None:
    assert teardown.end(None, Kernel(left=("rule",)).helper, lambda _: None) is Exit.OK
    (state.path / "state.json").write_text("{")
    assert teardown.end(state, Kernel().helper, lambda _: None) is Exit.OK
    assert state.read() is None


def test_teardown_with_nothing_to_do_says_so(state: StateDir) -> None:
    said: list[str] = []
    assert teardown.end(state, Kernel().helper, said.append) is Exit.OK
    assert len(said) == 1
    assert said[0].startswith("nothing to do")


def test_teardown_tells_what_could_not_be_removed(state: StateDir) -> None:
    kernel = Kernel()
    kernel.fail[Reclaim] = (Reclaimed((), ("rule",)), ())
    said: list[str] = []
    assert teardown.end(state, kernel.helper, said.append) is Exit.ERROR
    assert said == ["could not be removed: rule"]


def test_teardown_of_another_state_directory_says_which_is_needed(state: StateDir) -> None:
    kernel = Kernel()
    kernel.fail[Reclaim] = refused(Exit.ALREADY_UP, "no")
    with pytest.raises(AlreadyUp) as caught:
        teardown.end(state, kernel.helper, lambda _: None)
    assert "--state-dir" in caught.value.advice


def test_close_that_leaves_something_is_told_to_the_client(state: StateDir) -> None:
    running = Running(OPTIONS, state, Stage())
    from proxyvpn.messages import Closed

    running.stage.kernel.fail[Close] = (Closed((), ("rule",)), ())
    assert teardown.end(state, running.stage.kernel.helper, lambda _: None) is Exit.ERROR
    assert running.outcome() is Exit.ERROR


# What is printed.

REPORT = Report(
    ifname="pvpn0",
    proxies=("http://192.0.2.7:3128",),
    resolvers=("192.0.2.53",),
    bypass=("10.0.0.0/8",),
    killswitch=True,
    since=1000,
    restarts=1,
    dropped=17,
    notes=("a note",),
    counters={"flows_open_now": 2, "flows_connecting_now": 1, "flows_opened": 9, "bytes_up": 3_000_000, "refused_x": 4},
)


def test_text_of_a_running_tunnel() -> None:
    text = report.as_text(Condition("up", pid=5, report=REPORT), 1000 + 3725)
    for part in (
        "1 h 2 min",
        "pid 5",
        "pvpn0",
        "on, UDP is dropped",
        "3 now, 9 opened, 4 refused",
        "2.9 MiB up",
        "17 packets",
    ):
        assert part in text
    assert "a note" in text


def test_text_and_json_have_each_of_several_proxies_and_a_single_one_that_is_not_well() -> None:
    first = Standing(Endpoint(ip_address("192.0.2.7"), 3128), "up", 9, {"connects": 3}, "http://proxy.example:3128")
    second = replace(first, endpoint=Endpoint(ip_address("2001:db8::7"), 3128), state="down")
    for standings, lines in (((first,), 0), ((second,), 1), ((first, second), 2)):
        condition = Condition("up", pid=5, report=replace(REPORT, standings=standings))
        text = report.as_text(condition, 1000)
        assert sum("connects opened" in line for line in text.splitlines()) == lines
        assert text.splitlines()[4 + lines].startswith("bypass")
        found = report.as_json(condition, 1000)["upstreams"]
        assert [each["address"] for each in found] == [str(each.endpoint) for each in standings]
    assert found[1] == {
        "address": "[2001:db8::7]:3128",
        "proxy": "http://proxy.example:3128",
        "state": "down",
        "seconds": 9,
        "counters": {"connects": 3},
    }


def test_text_has_a_line_for_each_figure_that_there_is_something_to_say_about() -> None:
    plain = report.as_text(Condition("up", pid=5, report=replace(REPORT, counters={})), 1000)
    counters = {
        **{"refused_status_403": 10, "refused_timeout": 2, "flows_asking_now": 1},
        **{"connect_under_1_ms": 0, "connect_under_2_ms": 4, "connect_count": 4, "pool_made": 3, "tun_dropped": 2},
    }
    text = report.as_text(Condition("up", pid=5, report=replace(REPORT, counters=counters)), 1000)
    assert set(text.splitlines()) - set(plain.splitlines()) == {
        "flows         0 now, 0 opened, 12 refused",
        "flows now     1 waiting for its answer",
        "refused       12: 10 by the proxy (403), 2 timed out",
        "connect time  under 2 ms for nine of ten",
        "warm          0 of 3 connections that were made in advance were used, 0 wait",
        "TUN           2 packets not taken by the kernel",
    }


def test_json_has_the_counters_flat_and_grouped() -> None:
    up = report.as_json(Condition("up", pid=5, report=REPORT), 1010)
    assert (up["counters"]["flows_open_now"], up["figures"]["flows"]["now"]["open"]) == (2, 2)


def test_json_has_the_same_keys_whatever_is_found() -> None:
    up = report.as_json(Condition("up", pid=5, report=REPORT), 1010)
    assert (up["schema"], up["state"], up["uptime"], up["counters"]["flows_opened"]) == (2, "up", 10, 9)
    locked = report.as_json(Condition("locked", record=RECORD), 0)
    assert (locked["schema"], locked["state"], locked["killswitch"]) == (2, "locked", True)
    down = report.as_json(Condition("down"), 0)
    assert (down["schema"], down["state"]) == (2, "down")
    assert up.keys() == locked.keys() == down.keys()
    json.dumps([up, locked, down])


def test_text_of_a_locked_machine_says_how_to_unlock_it() -> None:
    assert "proxyvpn teardown" in report.as_text(Condition("locked", record=replace(RECORD)), 0)


def test_text_of_leftovers_lists_them() -> None:
    assert "  rule 5200" in report.as_text(Condition("down", left=("rule 5200",)), 0).splitlines()
