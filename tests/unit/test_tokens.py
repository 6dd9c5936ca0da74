"""The process that makes tokens: NTLM against a server of the same library, and what it says without a ticket."""

from __future__ import annotations

import base64
import contextlib
import os
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import spnego

from proxyvpn import tokens
from proxyvpn.channel import Channel
from proxyvpn.messages import Count, Made, Make
from proxyvpn.tokens import MOST_CONTEXTS, Tokens


@pytest.fixture
def known_user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let the library's server know a user; it reads this file."""
    users = tmp_path / "users"
    users.write_text("DOMAIN:ann:hunter2\n")
    monkeypatch.setenv("NTLM_USER_FILE", str(users))
    yield


def ntlm(context: str, challenge: str = "", password: str = "hunter2") -> Make:
    return Make(1, "proxy.example", "ntlm", context, challenge, "DOMAIN\\ann", password)


def handshake(password: str) -> spnego.ContextProxy:
    """Let a server and the maker of tokens talk to the end, each other handshake going on beside it."""
    maker, server = Tokens(), spnego.server(protocol="ntlm", options=spnego.NegotiateOptions.use_ntlm)
    first = maker.answer(ntlm("7", password=password))
    maker.answer(ntlm("8"))
    challenge = server.step(base64.b64decode(first.removeprefix("token ")))
    assert challenge is not None
    last = maker.answer(ntlm("7", base64.b64encode(challenge).decode(), password))
    server.step(base64.b64decode(last.removeprefix("token ")))
    return server


def test_ntlm_handshake_is_accepted_by_a_server(known_user: None) -> None:
    assert handshake("hunter2").complete


def test_wrong_password_is_not(known_user: None) -> None:
    with pytest.raises(spnego.exceptions.SpnegoError):
        handshake("hunter3")


def test_ntlm_answer_is_of_version_2(known_user: None) -> None:
    maker, server = Tokens(), spnego.server(protocol="ntlm", options=spnego.NegotiateOptions.use_ntlm)
    challenge = server.step(base64.b64decode(maker.answer(ntlm("1")).removeprefix("token ")))
    assert challenge is not None
    answer = base64.b64decode(maker.answer(ntlm("1", base64.b64encode(challenge).decode())).removeprefix("token "))
    length = int.from_bytes(answer[20:22], "little")
    assert length > 24, "MS-NLMP 2.2.2.8: version 1 has 24 bytes"


def test_handshake_that_nobody_knows_and_nonsense_are_refused() -> None:
    maker = Tokens()
    assert maker.answer(ntlm("1", "TlRM")).startswith("missing the handshake")
    maker.answer(ntlm("1"))
    assert maker.answer(ntlm("1", base64.b64encode(b"nonsense").decode())).startswith("missing ")
    assert "\n" not in maker.answer(ntlm("1", "!!!"))


def test_handshakes_that_are_not_ended_are_forgotten() -> None:
    maker = Tokens()
    for number in range(MOST_CONTEXTS + 1):
        maker.answer(ntlm(str(number)))
    assert maker.answer(ntlm("0", "TlRM")).startswith("missing the handshake")
    assert not maker.answer(ntlm(str(MOST_CONTEXTS), "TlRM")).startswith("missing the handshake")


def test_without_a_ticket_it_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KRB5CCNAME", f"FILE:{tmp_path / 'none'}")
    monkeypatch.setenv("KRB5_CONFIG", os.devnull)
    negotiate = Make(1, "proxy.example", "negotiate", "1", "", "", "")
    assert Tokens().answer(negotiate) == "missing no Kerberos ticket: run kinit"
    monkeypatch.setenv("KRB5_CLIENT_KTNAME", str(tmp_path / "keytab"))
    assert Tokens().answer(negotiate).startswith("missing no Kerberos ticket could be had by the keytab")


def test_process_answers_until_its_channel_ends() -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    running = threading.Thread(target=tokens.serve, args=(Channel(theirs),))
    running.start()
    with theirs, contextlib.closing(Channel(ours)) as channel:
        channel.settimeout(10)
        channel.send(ntlm("1"))
        received = channel.receive()
        assert received is not None and isinstance(received.message, Made)
        assert received.message.number == 1 and received.message.answer.startswith("token TlRMTVNTUAAB")
        channel.send(Count())  # what nobody asks of it ends it
        running.join(10)
        assert not running.is_alive()


def test_message_never_prints_a_password() -> None:
    assert "hunter2" not in repr(ntlm("1")) and "secret" not in repr(Made(1, "token secret"))
