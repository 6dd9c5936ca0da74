"""The life of one `up`: the order of what it asks for, and what becomes of the machine when something ends early."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from ipaddress import ip_address
from pathlib import Path

import pytest
from tests.unit.fakes import KILLSWITCH, OPTIONS, Ended, Stage, refused

from proxyvpn import app, briefing, proxy, report, restarts, teardown
from proxyvpn.balancing import Balancing
from proxyvpn.children import ChildGone
from proxyvpn.errors import (
    AlreadyUp,
    CredentialsRefused,
    Exit,
    MachineLocked,
    NotRunning,
    PrivilegeMissing,
    ProxyUnreachable,
    ProxyvpnError,
    RolledBack,
    StateError,
    UsageError,
)
from proxyvpn.messages import Attach, Carry, Close, Count, Engage, Open, Outcome, Refused, Start, Status, Try
from proxyvpn.options import Options, Script
from proxyvpn.report import Condition
from proxyvpn.state import StateDir

HERE = teardown.Here("boot", privileged=True)


@pytest.fixture
def state(tmp_path: Path) -> Iterator[StateDir]:
    found = StateDir.open(tmp_path / "state", create=True)
    assert found is not None
    found.lock()
    with found:
        yield found


@pytest.fixture
def stage() -> Stage:
    """A stage on which Ctrl-C follows `ready:` at once."""
    found = Stage()
    found.when_ready = found.interrupt
    return found


def files(state: StateDir) -> set[str]:
    return {entry.name for entry in state.path.iterdir()} - {"lock"}


def run(options: Options, state: StateDir, stage: Stage) -> ProxyvpnError | Exit:
    try:
        return app.up(options, state, stage.world())
    except ProxyvpnError as error:
        return error


class Running:
    """An `up` in a thread, past its `ready:`."""

    def __init__(self, options: Options, state: StateDir, stage: Stage) -> None:
        is_ready = threading.Event()
        stage.when_ready = is_ready.set
        self.stage = stage
        self.state = state
        self.pool = ThreadPoolExecutor(1)
        self.result: Future[ProxyvpnError | Exit] = self.pool.submit(run, options, state, stage)
        assert is_ready.wait(5), self.result.result(0)

    def condition(self) -> Condition:
        return teardown.condition(self.state, HERE, self.stage.kernel.helper)

    def end(self) -> ProxyvpnError | Exit:
        self.stage.interrupt()
        return self.outcome()

    def outcome(self) -> ProxyvpnError | Exit:
        found = self.result.result(10)
        self.pool.shutdown()
        return found


# The order.


def test_up_opens_starts_the_worker_and_only_then_engages(state: StateDir, stage: Stage) -> None:
    seen_by_engage: list[int] = []
    kernel = stage.kernel

    def look() -> None:
        seen_by_engage.append(len(kernel.started))
        stage.interrupt()

    stage.when_ready = look
    assert run(OPTIONS, state, stage) is Exit.OK
    assert kernel.asked == ["Status", "Open", "Engage", "Close"]
    assert seen_by_engage == [1]
    assert kernel.opened[0].tunnel.resolvers == (ip_address("192.0.2.53"),)
    assert (kernel.started[0].upstreams[0].user, kernel.started[0].upstreams[0].password) == ("ann", b"hunter2")


def test_orderly_end_leaves_no_file_and_no_process(state: StateDir, stage: Stage) -> None:
    assert run(OPTIONS, state, stage) is Exit.OK
    assert files(state) == set()
    assert [process.wait(1) for process in stage.kernel.helpers + stage.kernel.workers] == [0, 0]


def test_record_is_written_before_open_and_holds_no_password(state: StateDir, stage: Stage) -> None:
    stage.kernel.fail[Open] = Ended()
    stage.kernel.locked = True
    run(KILLSWITCH, state, stage)
    text = (state.path / "state.json").read_text()
    record = state.read()
    assert record is not None
    assert record.phase == "opening"
    assert any("ip -4 rule add pref 5200" in step for step in record.steps)
    assert "hunter2" not in text
    assert "http://ann:***@proxy.example:3128" in text


def test_full_disk_is_noticed_before_the_kernel_is_touched(state: StateDir, stage: Stage) -> None:
    (state.path / "state.json.new").mkdir()
    assert isinstance(run(OPTIONS, state, stage), StateError)
    assert "Open" not in stage.kernel.asked


def test_corrupt_record_is_said_before_any_process_starts(state: StateDir, stage: Stage) -> None:
    (state.path / "state.json").write_text("{")
    assert isinstance(run(OPTIONS, state, stage), StateError)
    assert stage.kernel.helpers == []


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (OPTIONS, "by pvpn0; killswitch off, UDP is left alone; DNS goes directly to 192.0.2.53"),
        (KILLSWITCH, "by pvpn0; killswitch on, UDP is dropped but for DNS to 192.0.2.53"),
        (replace(OPTIONS, source="https_proxy"), "http://ann:***@proxy.example:3128 (from https_proxy) by"),
    ],
)
def test_ready_line_tells_what_happens(state: StateDir, stage: Stage, options: Options, says: str) -> None:
    run(options, state, stage)
    assert len(stage.ready) == 1
    assert stage.ready[0].startswith("ready: TCP goes through http://ann:***@proxy.example:3128")
    assert says in stage.ready[0]
    assert "hunter2" not in stage.ready[0] + "".join(stage.said)


def test_ready_line_says_that_a_script_decides() -> None:
    options = replace(OPTIONS, script=Script("x", "http://x.example/p.pac"))
    says = (
        "TCP goes through what the PAC file http://x.example/p.pac says, of http://ann:***@proxy.example:3128 by pvpn0"
    )
    assert says in report.ready_line(options, "pvpn0", ())


def test_ready_line_says_how_one_of_several_proxies_is_chosen() -> None:
    both = (*OPTIONS.proxies, proxy.parse("http://second.example:3128"))
    for way, says in (
        ("order", "http://ann:***@proxy.example:3128, then http://second.example:3128 by"),
        ("destination", "http://ann:***@proxy.example:3128, http://second.example:3128 (destination) by"),
    ):
        options = replace(OPTIONS, proxies=both, balancing=Balancing(way))
        assert says in report.ready_line(options, "pvpn0", ())


def test_worker_may_connect_to_ports_of_proxies_that_have_no_address_yet() -> None:
    both = (*OPTIONS.proxies, proxy.parse("http://second.example:8080"))
    start = briefing.start(replace(OPTIONS, proxies=both), (), 0, ())
    assert (start.upstreams, start.ports) == ((), (3128, 8080))


# What fails before the kernel is touched.


@pytest.mark.parametrize("kind", [ProxyUnreachable, CredentialsRefused, UsageError])
def test_proxy_that_cannot_be_used_ends_up_as_it_is(state: StateDir, stage: Stage, kind: type[ProxyvpnError]) -> None:
    stage.unreachable = kind("no")
    outcome = run(OPTIONS, state, stage)
    assert type(outcome) is kind
    assert "Open" not in stage.kernel.asked
    assert "state.json" not in files(state)


def test_unreachable_proxy_on_a_locked_machine_says_what_is_in_the_way(state: StateDir, stage: Stage) -> None:
    stage.unreachable, stage.kernel.locked = ProxyUnreachable("no"), True
    outcome = run(OPTIONS, state, stage)
    assert isinstance(outcome, ProxyUnreachable)
    assert "teardown" in outcome.advice


@pytest.mark.parametrize(("code", "kind"), [(4, PrivilegeMissing), (7, AlreadyUp), (8, RolledBack), (1, ProxyvpnError)])
def test_refused_open_ends_with_the_code_of_the_helper(
    state: StateDir, stage: Stage, code: int, kind: type[ProxyvpnError]
) -> None:
    stage.kernel.fail[Open] = refused(Exit(code), "no")
    outcome = run(KILLSWITCH, state, stage)
    assert type(outcome) is kind
    assert "Close" not in stage.kernel.asked
    assert files(state) == set()


def test_ctrl_c_before_ready_undoes_what_was_opened(state: StateDir, stage: Stage) -> None:
    stage.interrupt()
    outcome = run(OPTIONS, state, stage)
    assert isinstance(outcome, ProxyvpnError)
    assert outcome.what == "ended before it was ready"
    assert stage.ready == []
    assert files(state) == set()


@pytest.mark.parametrize(
    ("fail", "kind"),
    [({Start: Ended()}, ChildGone), ({Try: Ended()}, ChildGone)],
)
def test_worker_that_fails_before_the_tunnel_is_opened_changes_nothing(
    state: StateDir, stage: Stage, fail: dict[type, Exception], kind: type
) -> None:
    stage.kernel.fail |= fail
    assert isinstance(run(KILLSWITCH, state, stage), kind)
    assert "Open" not in stage.kernel.asked
    assert files(state) == set()


def test_refused_credentials_are_found_before_the_tunnel_is_opened(state: StateDir, stage: Stage) -> None:
    stage.kernel.outcomes = (Outcome(0, "wrong", "it answered 407"),)
    assert isinstance(run(KILLSWITCH, state, stage), CredentialsRefused)
    assert "Open" not in stage.kernel.asked
    assert files(state) == set()


# What fails afterwards: the table at the head of app.py.


@pytest.mark.parametrize("options", [OPTIONS, KILLSWITCH])
@pytest.mark.parametrize("step", [Carry, Engage])
def test_failed_start_is_rolled_back(state: StateDir, stage: Stage, options: Options, step: type) -> None:
    stage.kernel.fail[step] = Ended() if step is Carry else refused(Exit.ROLLED_BACK, "the kernel refused")
    outcome = run(options, state, stage)
    assert isinstance(outcome, RolledBack)
    assert stage.kernel.asked[-1] == ("Close" if step is Carry else "Engage")
    assert files(state) == set()


def test_failed_take_over_leaves_a_locked_machine_locked(state: StateDir, stage: Stage) -> None:
    stage.kernel.locked = True
    stage.kernel.fail[Carry] = Ended()
    assert isinstance(run(KILLSWITCH, state, stage), MachineLocked)
    assert "Close" not in stage.kernel.asked
    assert "state.json" in files(state)


def test_helper_that_dies_after_a_take_over_without_killswitch_is_cleaned_up_after(
    state: StateDir, stage: Stage
) -> None:
    stage.kernel.locked = True
    running = Running(OPTIONS, state, stage)
    stage.kernel.fail[Status] = Ended()
    with pytest.raises(StateError):
        running.condition()
    outcome = running.outcome()
    assert isinstance(outcome, ProxyvpnError) and not isinstance(outcome, MachineLocked)
    assert stage.kernel.asked[-1] == "Reclaim"


def test_helper_that_dies_opening_is_cleaned_up_after_by_another(state: StateDir, stage: Stage) -> None:
    stage.kernel.fail[Engage] = Ended()
    assert isinstance(run(OPTIONS, state, stage), RolledBack)
    assert stage.kernel.asked == ["Status", "Open", "Engage", "Reclaim"]


@pytest.mark.parametrize("step", [Open, Engage])
def test_helper_that_dies_before_the_guard_was_loaded_is_no_lock(state: StateDir, stage: Stage, step: type) -> None:
    stage.kernel.fail[step] = Ended()
    assert isinstance(run(KILLSWITCH, state, stage), RolledBack)
    assert stage.kernel.asked[-2:] == ["Status", "Reclaim"]
    assert files(state) == set()


def test_helper_that_dies_while_up_ends_up_and_tidies(state: StateDir, stage: Stage) -> None:
    running = Running(OPTIONS, state, stage)
    stage.kernel.fail[Status] = Ended()
    with pytest.raises(StateError):
        running.condition()
    outcome = running.outcome()
    assert isinstance(outcome, ProxyvpnError)
    assert outcome.code is Exit.ERROR
    assert stage.kernel.asked[-1] == "Reclaim"


def test_helper_that_dies_under_the_killswitch_leaves_the_machine_locked(state: StateDir, stage: Stage) -> None:
    running = Running(KILLSWITCH, state, stage)
    stage.kernel.fail[Status] = Ended()
    with pytest.raises(StateError):
        running.condition()
    assert isinstance(running.outcome(), MachineLocked)
    assert "Reclaim" not in stage.kernel.asked
    assert "state.json" in files(state)


def test_helper_that_dies_at_close_is_replaced_to_undo(state: StateDir, stage: Stage) -> None:
    stage.kernel.fail[Close] = Ended()
    assert run(KILLSWITCH, state, stage) is Exit.OK
    assert stage.kernel.asked[-1] == "Reclaim"


def test_dead_worker_is_replaced_on_the_same_queues(state: StateDir, stage: Stage) -> None:
    running = Running(KILLSWITCH, state, stage)
    stage.kernel.fail[Count] = Ended()
    running.condition()
    del stage.kernel.fail[Count]
    found = running.condition()
    assert found.report is not None
    assert found.report.restarts == 1
    assert found.report.counters["flows_opened"] == 5
    assert len(stage.kernel.started) == 2
    assert running.end() is Exit.OK
    assert stage.kernel.asked.count("Attach") == 1
    assert stage.kernel.asked.count("Engage") == 1


@pytest.mark.parametrize(("options", "kind"), [(OPTIONS, RolledBack), (KILLSWITCH, MachineLocked)])
def test_worker_that_dies_again_and_again_is_given_up(
    state: StateDir, stage: Stage, options: Options, kind: type[ProxyvpnError]
) -> None:
    running = Running(options, state, stage)
    stage.kernel.fail[Start] = stage.kernel.fail[Count] = Ended()
    running.condition()
    assert isinstance(running.outcome(), kind)
    assert len(stage.kernel.workers) == 1 + restarts.MOST


def test_helper_that_refuses_to_attach_ends_up(state: StateDir, stage: Stage) -> None:
    running = Running(OPTIONS, state, stage)
    stage.kernel.fail[Attach] = (Refused(Exit.ERROR, "no", "", ""), ())
    stage.kernel.fail[Count] = Ended()
    running.condition()
    assert isinstance(running.outcome(), RolledBack)


def test_changed_resolvers_are_let_through_while_up(state: StateDir, stage: Stage) -> None:
    stage.look_every = 0.01
    running = Running(KILLSWITCH, state, stage)
    stage.files["/etc/resolv.conf"] = "nameserver 192.0.2.99\n"
    assert stage.kernel.updated.wait(5)
    assert running.end() is Exit.OK
    assert [str(address) for address in stage.kernel.updates[0].resolvers] == ["192.0.2.99"]
    assert str(stage.kernel.updates[0].proxies[0]) == "192.0.2.7:3128"
    assert stage.kernel.asked.count("Update") == 1


@pytest.mark.parametrize(
    ("options", "locked", "noted"), [(KILLSWITCH, False, True), (KILLSWITCH, True, False), (OPTIONS, False, False)]
)
def test_status_does_not_claim_a_killswitch_that_somebody_has_removed(
    state: StateDir, stage: Stage, options: Options, locked: bool, noted: bool
) -> None:
    running = Running(options, state, stage)
    stage.kernel.locked = locked
    found = running.condition()
    assert found.report is not None
    assert any("NOT in place" in note for note in found.report.notes) == noted
    assert running.end() is Exit.OK


def test_resolvers_that_were_typed_are_not_followed(state: StateDir, stage: Stage) -> None:
    stage.look_every = 0.0
    running = Running(replace(OPTIONS, dns=(ip_address("192.0.2.1"),)), state, stage)
    stage.files["/etc/resolv.conf"] = "nameserver 192.0.2.99\n"
    running.condition()
    assert running.end() is Exit.OK
    assert stage.kernel.updates == []


def test_name_that_moves_is_told_to_the_firewall_and_then_to_the_worker(state: StateDir, stage: Stage) -> None:
    stage.look_every = 0.01
    running = Running(KILLSWITCH, state, stage)
    stage.address = "192.0.2.8"
    assert stage.kernel.has_replaced.wait(5)
    assert running.end() is Exit.OK
    assert [str(each) for each in stage.kernel.updates[0].proxies] == ["192.0.2.8:3128", "192.0.2.7:3128"]
    assert [str(each.endpoint) for each in stage.kernel.replaced[0].upstreams] == ["192.0.2.8:3128", "192.0.2.7:3128"]
    assert sum("has moved" in line for line in stage.said) == 1
    assert len(stage.kernel.started) == 1, "no worker was replaced for it"


# Confirming.


def test_what_nobody_confirms_is_undone_in_order(state: StateDir, stage: Stage) -> None:
    running = Running(replace(KILLSWITCH, confirm=1), state, stage)
    assert running.outcome() is Exit.ROLLED_BACK
    assert stage.kernel.asked[-1] == "Close"
    assert "not confirmed within 1 s: undoing everything" in stage.said


def test_confirmed_tunnel_stays_up(state: StateDir, stage: Stage) -> None:
    running = Running(replace(OPTIONS, confirm=60), state, stage)
    found = running.condition()
    assert found.report is not None and "unless it is confirmed" in found.report.notes[-1]
    said: list[str] = []
    assert [teardown.confirm(state, said.append) for _ in range(2)] == [Exit.OK, Exit.OK]
    assert said == ["confirmed: the tunnel stays up", "nothing to confirm: the tunnel stays up anyway"]
    found = running.condition()
    assert found.report is not None and found.report.notes == ()
    assert running.end() is Exit.OK


def test_confirming_nothing_says_that_nothing_runs(state: StateDir) -> None:
    with pytest.raises(NotRunning):
        teardown.confirm(state, print)


# Dry run.


def test_dry_run_prints_every_step_and_starts_nothing(stage: Stage) -> None:
    lines = app.dry_run(KILLSWITCH, stage.world())
    assert lines[0].startswith("nft -f -")
    assert any("ip -6 route add unreachable default" in line for line in lines)
    assert stage.kernel.helpers == []
    assert stage.kernel.workers == []
