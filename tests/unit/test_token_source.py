"""Wishes for tokens: who they are passed on to, what is refused at once, and that nobody waits."""

from __future__ import annotations

import os
import select
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest

from proxyvpn import token_source
from proxyvpn.channel import Channel
from proxyvpn.errors import ProtocolError
from proxyvpn.messages import Made, Make
from proxyvpn.proxy import Proxy
from proxyvpn.token_source import TokenSource
from proxyvpn.wishes import Granted

ANN = Proxy("proxy.example", 3128, "ann", "hunter2")
NOBODY = Proxy("other.example", 3128, schemes=("negotiate",))


class Gone:
    """A process that ends when it is asked to."""

    pid = 0

    def wait(self, timeout: float | None = None) -> int:
        return 0 if timeout else -9

    def kill(self) -> None: ...


@dataclass
class Maker:
    """The other process, as far as the source sees it."""

    started: int = 0
    ends: list[Channel] = field(default_factory=list)

    def start(self) -> tuple[Channel, Gone]:
        self.started += 1
        ours, theirs = Channel.pair()
        self.ends.append(Channel(theirs))
        return ours, Gone()

    def asked(self) -> Make:
        received = self.ends[-1].receive()
        assert received is not None and isinstance(received.message, Make)
        return received.message


@pytest.fixture
def maker() -> Iterator[Maker]:
    made = Maker()
    yield made
    for end in made.ends:
        end.close()


def wish(proxy: Proxy, scheme: str, context: int = 1, challenge: str = "") -> bytes:
    return f"{proxy.host}\n{proxy.port}\n{scheme}\n{context}\n{challenge}".encode()


def test_wish_is_passed_on_and_its_answer_granted(maker: Maker) -> None:
    source = TokenSource((ANN, NOBODY), maker.start)
    assert (source.fileno(), maker.started) == (-1, 0), "nobody is started before a token is wanted"
    source.begin(41, wish(ANN, "ntlm", 7, "TlRM"))
    assert source.take() == []
    asked = maker.asked()
    assert (asked.host, asked.scheme, asked.context, asked.challenge) == ("proxy.example", "ntlm", "7", "TlRM")
    assert (asked.user, asked.password) == ("ann", "hunter2")
    maker.ends[0].send(Made(asked.number, "token T3=="))
    assert select.select([source.fileno()], [], [], 5)[0]
    assert source.take() == [Granted(41, b"token T3==")]
    source.end()


def test_password_is_given_for_ntlm_only(maker: Maker) -> None:
    source = TokenSource((ANN,), maker.start)
    source.begin(1, wish(ANN, "negotiate"))
    assert (maker.asked().user, maker.started) == ("", 1)
    source.end()


@pytest.mark.parametrize(
    "content",
    [
        wish(Proxy("evil.example", 3128), "negotiate"),
        wish(Proxy(ANN.host, 3129), "negotiate"),
        wish(ANN, "kerberos"),
        wish(NOBODY, "ntlm"),
        wish(ANN, "ntlm", challenge="a b"),
        wish(ANN, "ntlm", -1),
        wish(ANN, "ntlm") + b"\n",
        b"",
        b"\xff" * 100,
    ],
)
def test_worker_gets_no_token_for_what_the_user_did_not_give(maker: Maker, content: bytes) -> None:
    source = TokenSource((ANN, NOBODY), maker.start)
    source.begin(1, content)
    (granted,) = source.take()
    assert granted.refusal and maker.started == 0


def test_late_token_is_refused_and_dropped_when_it_comes(maker: Maker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(token_source, "LIMIT", 0.0)
    source = TokenSource((ANN,), maker.start)
    source.begin(1, wish(ANN, "ntlm"))
    (late,) = source.take()
    assert "no token within" in late.refusal
    maker.ends[0].send(Made(maker.asked().number, "token T1=="))
    assert source.take() == []
    source.end()


@pytest.mark.parametrize("ending", ["end of file", "nonsense"])
def test_process_that_ends_is_started_again_when_it_is_wanted(maker: Maker, ending: str) -> None:
    source = TokenSource((ANN,), maker.start)
    source.begin(1, wish(ANN, "ntlm"))
    if ending == "nonsense":
        maker.ends[0].send(maker.asked())
    maker.ends[0].close()
    (refused,) = source.take()
    assert (refused.number, "has ended" in refused.refusal) == (1, True)
    source.begin(2, wish(ANN, "ntlm"))
    assert (maker.started, source.take()) == (2, [])
    source.end()
    source.end()


def test_process_that_reads_nothing_makes_nobody_wait(maker: Maker) -> None:
    source = TokenSource((ANN,), maker.start)
    for number in range(2000):
        source.begin(number, wish(ANN, "ntlm", challenge="A" * 8000))
    assert any("no process" in granted.refusal for granted in source.take())
    source.end()


def test_process_that_cannot_be_started_is_told_of() -> None:
    def start() -> tuple[Channel, Gone]:
        raise ProtocolError("no room")

    source = TokenSource((ANN,), start)
    source.begin(1, wish(ANN, "ntlm"))
    assert "no room" in source.take()[0].refusal


@pytest.mark.parametrize(
    ("environ", "uid", "expected"),
    [
        ({}, 0, 0),
        ({"SUDO_UID": "1000"}, 0, 1000),
        ({"SUDO_UID": "1000"}, 1000, 0),
        ({"SUDO_UID": "1000", "KRB5_CLIENT_KTNAME": "/etc/k"}, 0, 0),
        ({"SUDO_UID": "root"}, 0, 0),
        ({"SUDO_UID": ""}, 0, 0),
    ],
)
def test_ticket_is_that_of_the_user_who_typed_sudo(environ: dict[str, str], uid: int, expected: int) -> None:
    assert token_source.user(environ, uid) == expected


@pytest.mark.parametrize(
    ("environ", "configuration", "there", "expected"),
    [
        ({}, "", "", False),
        ({"KRB5CCNAME": "KCM:"}, "", "", True),
        ({"KRB5_CLIENT_KTNAME": "/etc/k"}, "", "", True),
        ({}, "[libdefaults]\n  default_ccache_name = KEYRING:persistent:%{uid}\n", "", True),
        ({}, "[libdefaults]\n# default_ccache_name = KCM:\n", "", False),
        ({}, "", "/tmp/krb5cc_0", True),
        ({"SUDO_UID": "1000"}, "", "/tmp/krb5cc_0", False),
        ({"SUDO_UID": "1000"}, "", "/tmp/krb5cc_1000", True),
    ],
)
def test_ticket_is_expected_where_there_may_be_one(
    environ: dict[str, str], configuration: str, there: str, expected: bool
) -> None:
    assert token_source.may_have_ticket(environ, 0, configuration, there.__eq__) is expected


def test_real_process_makes_a_token_and_ends_with_its_source() -> None:
    source = TokenSource.of((ANN,), {**os.environ, "https_proxy": "http://ann:hunter2@proxy.example"})
    source.begin(1, wish(ANN, "ntlm"))
    child = source._child
    assert child is not None
    environment = subprocess.run(
        ["cat", f"/proc/{child[1].pid}/environ", f"/proc/{child[1].pid}/cmdline"], capture_output=True, check=False
    ).stdout
    assert b"hunter2" not in environment
    granted: list[Granted] = []
    while not granted:
        assert select.select([source.fileno()], [], [], 20)[0]
        granted = source.take()
    assert granted[0].content.startswith(b"token TlRMTVNTUAAB")
    source.end()
    assert child[1].wait() == 0
