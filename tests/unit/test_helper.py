"""The helper's main loop over a real socket, with a fake kernel: its whole life, and every way in which it can end."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Iterator
from ipaddress import ip_address

import msgpack
import pytest
from tests.unit.fake_kernel import FakeKernel
from tests.unit.test_plan import EARLIER, PROXIES, RESOLVERS, a_tunnel

from proxyvpn import helper, plan
from proxyvpn.channel import Channel, close_all
from proxyvpn.errors import Exit
from proxyvpn.messages import (
    VERSION,
    Ask,
    Attach,
    Attached,
    Close,
    Closed,
    Count,
    Dial,
    Dialled,
    Down,
    Engage,
    Engaged,
    Message,
    Open,
    Opened,
    Reclaim,
    Reclaimed,
    Refused,
    State,
    Status,
    Update,
    Updated,
)
from proxyvpn.plan import Firewall, Link, Rule

CLOSED_TUNNEL = a_tunnel(killswitch=True)
OPEN_TUNNEL = a_tunnel(killswitch=False)
EVERY_REQUEST: tuple[Message, ...] = (
    *(Open(VERSION, OPEN_TUNNEL), Engage(), Update(RESOLVERS, PROXIES), Attach(), Status(), Close(), Reclaim()),
    Dial(RESOLVERS[0], 53),
    *(Ask(), Down(), Count(), Closed((), ()), Opened("pvpn0")),
)
PATHS: dict[helper.Phase, tuple[Message, ...]] = {
    helper.Phase.FRESH: (),
    helper.Phase.OPEN: (Open(VERSION, OPEN_TUNNEL),),
    helper.Phase.ENGAGED: (Open(VERSION, OPEN_TUNNEL), Engage()),
    helper.Phase.CLOSED: (Open(VERSION, OPEN_TUNNEL), Close()),
}


class Life:
    """A helper that serves in a thread, and our end of its socket."""

    def __init__(self, kernel: FakeKernel) -> None:
        self.kernel = kernel
        self.said: list[str] = []
        self.code: int | None = None
        self.channel, theirs = Channel.pair()
        self.channel.settimeout(10)
        self._theirs = Channel(theirs)
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        self.code = helper.serve(self._theirs, self.kernel, self.said.append)
        self._theirs.close()

    def ask(self, *messages: Message) -> Message:
        """Send each and give the answer to the last; descriptors that come along are closed."""
        answer: Message | None = None
        for message in messages:
            self.channel.send(message)
            received = self.channel.receive()
            assert received is not None, "the helper ended"
            close_all(received.fds)
            answer = received.message
        assert answer is not None
        return answer

    def end(self) -> int:
        """Close our end, wait, and give the exit code."""
        self.channel.close()
        self._thread.join(10)
        assert self.code is not None, "the helper does not end"
        self.kernel.close()
        return self.code


@pytest.fixture
def kernel() -> FakeKernel:
    return FakeKernel()


@pytest.fixture
def life(kernel: FakeKernel) -> Iterator[Life]:
    found = Life(kernel)
    yield found
    found.end()


def test_whole_life_with_the_killswitch(life: Life, kernel: FakeKernel) -> None:
    assert life.ask(Status()) == State("fresh", 0, (), False, ())
    assert life.ask(Open(VERSION, CLOSED_TUNNEL)) == Opened("pvpn0")
    assert kernel.locked() and not any(isinstance(step, Rule) for step in kernel.held)
    engaged = life.ask(Engage())
    assert isinstance(engaged, Engaged)
    assert engaged.steps == tuple(step.line for step in plan.steps(CLOSED_TUNNEL, plan.Host("pvpn0", True)))
    assert life.ask(Status()) == State("engaged", 7, (), True, ())
    assert life.ask(Update(RESOLVERS[:1], PROXIES[:1])) == Updated()
    assert kernel.updates == [a_tunnel(resolvers=RESOLVERS[:1], proxies=PROXIES[:1])]
    closed = life.ask(Close())
    assert isinstance(closed, Closed) and closed.left == ()
    assert kernel.held == []
    assert life.end() == 0


def test_every_step_is_said_before_it_is_done(life: Life) -> None:
    engaged = life.ask(Open(VERSION, OPEN_TUNNEL), Engage())
    assert isinstance(engaged, Engaged)
    assert life.said == [f"[#] {line}" for line in engaged.steps]


def test_the_guard_is_undone_last(life: Life, kernel: FakeKernel) -> None:
    closed = life.ask(Open(VERSION, CLOSED_TUNNEL), Engage(), Close())
    assert isinstance(closed, Closed)
    assert "nft delete table" in closed.undone[-1] and "rule del" in closed.undone[0]


def test_open_and_attach_give_a_descriptor_for_each_queue(life: Life) -> None:
    found = []
    for message in (Open(VERSION, a_tunnel(queues=3)), Engage(), Attach()):
        life.channel.send(message)
        received = life.channel.receive()
        assert received is not None
        close_all(received.fds)
        found.append((type(received.message), len(received.fds)))
    assert found == [(Opened, 3), (Engaged, 0), (Attached, 3)]


def test_earlier_connections_are_in_the_firewall_from_its_first_moment(life: Life, kernel: FakeKernel) -> None:
    kernel.connections = EARLIER
    life.ask(Open(VERSION, CLOSED_TUNNEL))
    assert [step.host.earlier for step in kernel.held if isinstance(step, Firewall)] == [EARLIER]


def test_without_the_killswitch_connections_are_asked_for_when_they_are_needed(life: Life, kernel: FakeKernel) -> None:
    life.ask(Open(VERSION, OPEN_TUNNEL))
    kernel.connections = EARLIER
    life.ask(Engage())
    assert [step.host.earlier for step in kernel.held if isinstance(step, Firewall)] == [EARLIER]


@pytest.mark.parametrize("asked", [(), (Engage(),), (Engage(), Attach()), (Engage(), Status())])
def test_end_of_file_undoes_everything_without_the_killswitch(asked: tuple[Message, ...]) -> None:
    life = Life(FakeKernel())
    life.ask(Open(VERSION, OPEN_TUNNEL), *asked)
    assert life.end() == 0
    assert life.kernel.held == []


@pytest.mark.parametrize("asked", [(), (Engage(),), (Engage(), Attach()), (Engage(), Status())])
def test_end_of_file_leaves_the_machine_locked_with_the_killswitch(asked: tuple[Message, ...]) -> None:
    life = Life(FakeKernel())
    life.ask(Open(VERSION, CLOSED_TUNNEL), *asked)
    held = list(life.kernel.held)
    assert life.end() == 0
    assert life.kernel.held == held and life.kernel.locked()
    assert "killswitch stays" in life.said[-1]


@pytest.mark.parametrize("tunnel", [OPEN_TUNNEL, CLOSED_TUNNEL])
def test_end_of_file_after_close_does_nothing_more(tunnel: plan.Tunnel) -> None:
    life = Life(FakeKernel())
    life.ask(Open(VERSION, tunnel), Engage(), Close())
    said = list(life.said)
    assert life.end() == 0
    assert life.said == said


def test_end_of_file_at_once_does_nothing() -> None:
    life = Life(FakeKernel())
    assert life.end() == 0
    assert (life.kernel.held, life.said) == ([], [])


UNPERMITTED = [
    (phase, message)
    for phase in helper.Phase
    for message in EVERY_REQUEST
    if type(message) not in helper.PERMITTED[phase]
]


@pytest.mark.parametrize(("phase", "message"), UNPERMITTED, ids=lambda each: getattr(each, "name", type(each).__name__))
def test_unpermitted_message_ends_the_helper_and_undoes(phase: helper.Phase, message: Message) -> None:
    life = Life(FakeKernel())
    if PATHS[phase]:
        life.ask(*PATHS[phase])
    answer = life.ask(message)
    assert isinstance(answer, Refused) and "not permitted" in answer.what
    assert life.end() == 1
    assert life.kernel.held == []


def test_the_table_has_a_row_for_each_phase_and_no_more_than_it_should() -> None:
    rows = {phase: {kind.__name__ for kind in row} for phase, row in helper.PERMITTED.items()}
    assert rows == {
        helper.Phase.FRESH: {"Open", "Reclaim", "Status"},
        helper.Phase.OPEN: {"Engage", "Status", "Close"},
        helper.Phase.ENGAGED: {"Update", "Attach", "Dial", "Status", "Close"},
        helper.Phase.CLOSED: set(),
    }


def test_dial_is_for_the_resolvers_of_a_tunnel_that_captures_names(kernel: FakeKernel) -> None:
    life = Life(kernel)
    life.ask(Open(VERSION, a_tunnel(killswitch=False, names="virtual")), Engage())
    assert life.ask(Dial(RESOLVERS[1], 53)) == Dialled()
    for refused in (Dial(RESOLVERS[0], 853), Dial(PROXIES[0].address, 53)):
        assert isinstance(life.ask(refused), Refused)
    assert kernel.dialled == [(str(RESOLVERS[1]), 53)]
    assert life.end() == 0


def test_dial_is_refused_where_names_go_directly_and_the_tunnel_stays(kernel: FakeKernel) -> None:
    life = Life(kernel)
    life.ask(Open(VERSION, OPEN_TUNNEL), Engage())
    assert isinstance(life.ask(Dial(RESOLVERS[0], 53)), Refused)
    assert isinstance(life.ask(Status()), State)
    assert kernel.dialled == []
    assert life.end() == 0


def test_unpermitted_message_with_the_killswitch_leaves_the_machine_locked() -> None:
    life = Life(FakeKernel())
    life.ask(Open(VERSION, CLOSED_TUNNEL), Engage(), Reclaim())
    assert life.end() == 1
    assert life.kernel.locked()


@pytest.mark.parametrize(
    "packet", [b"\xc1", b"hello", msgpack.packb({"is": "Route"}), msgpack.packb({"is": "Status", "x": 1})]
)
def test_unreadable_packet_ends_the_helper_and_undoes(packet: bytes) -> None:
    life = Life(FakeKernel())
    life.ask(Open(VERSION, OPEN_TUNNEL), Engage())
    with socket.socket(fileno=os.dup(life.channel.fileno())) as raw:
        raw.send(packet)
    received = life.channel.receive()
    assert received is not None and isinstance(received.message, Refused)
    assert life.end() == 1
    assert life.kernel.held == []


def test_message_with_a_descriptor_ends_the_helper_and_undoes() -> None:
    life = Life(FakeKernel())
    life.ask(Open(VERSION, OPEN_TUNNEL))
    with open("/dev/null", "rb") as file:
        life.channel.send(Engage(), (file.fileno(),))
    received = life.channel.receive()
    assert received is not None and isinstance(received.message, Refused)
    assert life.end() == 1
    assert life.kernel.held == []


def test_another_version_is_refused() -> None:
    life = Life(FakeKernel())
    assert isinstance(life.ask(Open(VERSION + 1, OPEN_TUNNEL)), Refused)
    assert life.end() == 1


STEPS = len(plan.steps(OPEN_TUNNEL, plan.Host("pvpn0", True)))
CLOSED_STEPS = len(plan.steps(CLOSED_TUNNEL, plan.Host("pvpn0", True)))


@pytest.mark.parametrize(
    ("tunnel", "step"),
    [*((OPEN_TUNNEL, step) for step in range(STEPS)), *((CLOSED_TUNNEL, step) for step in range(CLOSED_STEPS))],
)
def test_any_step_that_fails_is_rolled_back(tunnel: plan.Tunnel, step: int) -> None:
    life = Life(FakeKernel(refuse=step))
    answer = life.ask(Open(VERSION, tunnel))
    if isinstance(answer, Opened):
        answer = life.ask(Engage())
    assert isinstance(answer, Refused) and answer.code == Exit.ROLLED_BACK
    assert life.kernel.held == []
    assert life.end() == 0
    assert life.kernel.held == []


def test_failed_take_over_leaves_the_machine_locked() -> None:
    kernel = FakeKernel(refuse=CLOSED_STEPS + 1)
    crashed = Life(kernel)
    crashed.ask(Open(VERSION, CLOSED_TUNNEL), Engage())
    crashed.end()
    life = Life(kernel)
    kernel.was_locked_always = True
    answer = life.ask(Open(VERSION, CLOSED_TUNNEL))
    assert isinstance(answer, Refused) and answer.code == Exit.LOCKED
    life.end()
    assert kernel.locked() and kernel.was_locked_always


@pytest.mark.parametrize("step", range(STEPS))
def test_failed_take_over_without_killswitch_is_either_locked_or_open_and_never_between(step: int) -> None:
    kernel = FakeKernel(refuse=CLOSED_STEPS + step)
    crashed = Life(kernel)
    crashed.ask(Open(VERSION, CLOSED_TUNNEL), Engage())
    crashed.end()
    life = Life(kernel)
    answer = life.ask(Open(VERSION, OPEN_TUNNEL))
    if isinstance(answer, Opened):
        answer = life.ask(Engage())
    assert isinstance(answer, Refused)
    assert answer.code == (Exit.LOCKED if kernel.locked() else Exit.ROLLED_BACK)
    assert kernel.locked() or kernel.held == []
    life.end()


def test_asker_that_dies_in_a_take_over_without_killswitch_does_not_open_the_machine() -> None:
    kernel = FakeKernel()
    crashed = Life(kernel)
    crashed.ask(Open(VERSION, CLOSED_TUNNEL), Engage())
    crashed.end()
    life = Life(kernel)
    life.ask(Open(VERSION, OPEN_TUNNEL))
    life.end()
    assert kernel.locked() and kernel.was_locked_always
    assert "killswitch stays" in life.said[-1]


def test_asker_that_dies_after_a_take_over_without_killswitch_leaves_an_open_machine() -> None:
    kernel = FakeKernel()
    crashed = Life(kernel)
    crashed.ask(Open(VERSION, CLOSED_TUNNEL), Engage())
    crashed.end()
    life = Life(kernel)
    life.ask(Open(VERSION, OPEN_TUNNEL), Engage())
    life.end()
    assert not kernel.locked()


def test_locked_machine_is_taken_over_and_what_is_stale_goes(kernel: FakeKernel) -> None:
    crashed = Life(kernel)
    kernel.foreign_links = {"pvpn0"}
    crashed.ask(Open(VERSION, CLOSED_TUNNEL), Engage())
    crashed.end()
    kernel.foreign_links = set()
    life = Life(kernel)
    state = life.ask(Status())
    assert isinstance(state, State) and state.locked and state.left
    assert life.ask(Open(VERSION, CLOSED_TUNNEL)) == Opened("pvpn0")
    life.ask(Engage())
    assert {step.ifname for step in kernel.held if isinstance(step, Rule)} == {"", "pvpn0"}
    life.ask(Close())
    assert not [step for step in kernel.held if not isinstance(step, Link)]
    life.end()


def test_taken_name_leads_to_the_next(life: Life, kernel: FakeKernel) -> None:
    kernel.foreign_links = {"pvpn0", "pvpn1"}
    assert life.ask(Open(VERSION, CLOSED_TUNNEL)) == Opened("pvpn2")
    assert [step.host.ifname for step in kernel.held if isinstance(step, Firewall)] == ["pvpn2"]
    closed = life.ask(Close())
    assert isinstance(closed, Closed)
    assert [line for line in closed.undone if "link del" in line] == ["ip link del dev pvpn2"]
    assert kernel.held == []


@pytest.mark.parametrize("message", [Open(VERSION, OPEN_TUNNEL), Reclaim(), Status()])
def test_namespace_of_another_tunnel_is_left_alone(life: Life, kernel: FakeKernel, message: Message) -> None:
    kernel.claimed_by_another = True
    answer = life.ask(message)
    assert isinstance(answer, Refused) and answer.code == Exit.ALREADY_UP
    assert kernel.held == []


@pytest.mark.parametrize("message", [Reclaim(), Status()])
def test_a_look_does_not_keep_the_namespace(life: Life, kernel: FakeKernel, message: Message) -> None:
    life.ask(message)
    assert not kernel.claimed


def test_reclaim_removes_what_a_dead_tunnel_left(kernel: FakeKernel) -> None:
    crashed = Life(kernel)
    crashed.ask(Open(VERSION, CLOSED_TUNNEL), Engage())
    crashed.end()
    life = Life(kernel)
    reclaimed = life.ask(Reclaim())
    assert isinstance(reclaimed, Reclaimed) and reclaimed.removed and reclaimed.left == ()
    assert not kernel.locked()
    life.end()


@pytest.mark.parametrize("address", ["127.0.0.1", "224.0.0.1", "198.18.0.1"])
def test_update_with_an_impossible_resolver_is_refused_and_changes_nothing(
    life: Life, kernel: FakeKernel, address: str
) -> None:
    life.ask(Open(VERSION, OPEN_TUNNEL), Engage())
    answer = life.ask(Update((ip_address(address),), PROXIES))
    assert isinstance(answer, Refused) and answer.code == Exit.USAGE
    assert kernel.updates == []
    assert life.ask(Status()) == State("engaged", 7, (), False, ())


def test_caller_of_the_same_namespace_is_accepted() -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        helper.check_peer(theirs.fileno())


HERE = ip_address("192.0.2.1")
OPENED = (
    plan.Connection(HERE, 40001, ip_address("198.51.100.7"), 443),
    plan.Connection(HERE, 40002, PROXIES[0].address, PROXIES[0].port),
    plan.Connection(HERE, 40003, RESOLVERS[0], 53),
    plan.Connection(HERE, 40004, ip_address("10.1.2.3"), 443),
    plan.Connection(HERE, 40005, RESOLVERS[0], 443),
)


def test_with_the_killswitch_what_was_opened_before_ends_but_not_what_may_go_on() -> None:
    kernel = FakeKernel()
    kernel.opened = OPENED
    life = Life(kernel)
    assert isinstance(life.ask(Open(VERSION, CLOSED_TUNNEL), Engage()), Engaged)
    assert set(kernel.opened) == set(OPENED[1:4])
    assert any("ss --kill" in line for line in life.said)
    life.end()


def test_without_the_killswitch_what_was_opened_before_is_left_alone() -> None:
    kernel = FakeKernel()
    kernel.opened = OPENED
    life = Life(kernel)
    assert isinstance(life.ask(Open(VERSION, OPEN_TUNNEL), Engage()), Engaged)
    assert kernel.opened == OPENED
    life.end()


def test_kernel_that_cannot_end_connections_is_one_line_in_the_log() -> None:
    kernel = FakeKernel()
    kernel.can_end_connections = False
    life = Life(kernel)
    assert isinstance(life.ask(Open(VERSION, CLOSED_TUNNEL), Engage()), Engaged)
    assert sum("cannot be closed" in line for line in life.said) == 1
    assert isinstance(life.ask(Close()), Closed)
    life.end()
