"""channel.py over real sockets: one message a packet, descriptors beside it, end of file as a value."""

from __future__ import annotations

import array
import fcntl
import os
import signal
import socket
import subprocess
from collections.abc import Iterator

import pytest

from proxyvpn.channel import MAX_FDS, Channel, close_all
from proxyvpn.errors import ProtocolError
from proxyvpn.messages import MAX_BYTES, Close, Engage, Opened, Status, encode


@pytest.fixture
def ends() -> Iterator[tuple[Channel, socket.socket]]:
    channel, sock = Channel.pair()
    channel.settimeout(5)
    yield channel, sock
    channel.close()
    sock.close()


def send_with(sock: socket.socket, packet: bytes, *fds: int) -> None:
    """Send one packet with descriptors, as any process could."""
    sock.sendmsg([packet], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))])


def open_descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def test_messages_come_one_by_one_and_in_order(ends: tuple[Channel, socket.socket]) -> None:
    channel, sock = ends
    other = Channel(sock)
    for message in (Status(), Opened("pvpn0"), Close()):
        other.send(message)
    assert [found.message for found in (channel.receive(), channel.receive(), channel.receive()) if found] == [
        Status(),
        Opened("pvpn0"),
        Close(),
    ]


def test_end_of_file_is_none_and_stays_so(ends: tuple[Channel, socket.socket]) -> None:
    channel, sock = ends
    Channel(sock).send(Status())
    sock.close()
    assert channel.receive() is not None
    assert channel.receive() is None
    assert channel.receive() is None


def test_reset_is_an_end_of_file(ends: tuple[Channel, socket.socket]) -> None:
    channel, sock = ends
    channel.send(Status())
    sock.close()  # with an unread packet: the kernel says ECONNRESET
    assert channel.receive() is None


def test_descriptors_come_along_and_are_not_inherited(ends: tuple[Channel, socket.socket]) -> None:
    channel, sock = ends
    reading, writing = os.pipe()
    Channel(sock).send(Opened("pvpn0"), (writing,))
    os.close(writing)
    received = channel.receive()
    assert received is not None and len(received.fds) == 1
    assert fcntl.fcntl(received.fds[0], fcntl.F_GETFD) & fcntl.FD_CLOEXEC
    os.write(received.fds[0], b"through")
    assert os.read(reading, 16) == b"through"
    close_all((*received.fds, reading))


@pytest.mark.parametrize("packet", [b"", b"\xc1", b"x" * (MAX_BYTES + 100), encode(Engage())[:-1]])
def test_bad_packet_is_refused_and_its_descriptors_are_closed(
    ends: tuple[Channel, socket.socket], packet: bytes
) -> None:
    channel, sock = ends
    before = open_descriptors()
    send_with(sock, packet, 0, 1)
    with pytest.raises(ProtocolError):
        channel.receive()
    assert open_descriptors() == before


def test_more_descriptors_than_there_is_room_for_are_refused_and_closed(ends: tuple[Channel, socket.socket]) -> None:
    channel, sock = ends
    before = open_descriptors()
    send_with(sock, encode(Status()), *[0] * (MAX_FDS + 9))
    with pytest.raises(ProtocolError):
        channel.receive()
    assert open_descriptors() == before


def test_sending_to_nobody_is_an_error_and_no_signal(ends: tuple[Channel, socket.socket]) -> None:
    channel, sock = ends
    sock.close()
    with pytest.raises(BrokenPipeError):
        channel.send(Status())


def test_silence_is_a_timeout(ends: tuple[Channel, socket.socket]) -> None:
    channel, _ = ends
    channel.settimeout(0.01)
    with pytest.raises(TimeoutError):
        channel.receive()


def test_only_a_seqpacket_socket_is_taken_over() -> None:
    one, two = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    with one, two, open("/dev/null", "rb") as file:
        for fd in (one.fileno(), file.fileno()):
            with pytest.raises(ProtocolError):
                Channel.from_fd(fd)
        one.send(b"still open")
        assert two.recv(16) == b"still open"


def test_descriptor_is_taken_over() -> None:
    one, two = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    channel = Channel.from_fd(one.detach())
    Channel(two).send(Status())
    received = channel.receive()
    assert received is not None and received.message == Status()
    channel.close()
    two.close()


def test_process_that_is_stopped_is_not_waited_for_any_longer() -> None:
    ours, theirs = Channel.pair()
    with theirs, subprocess.Popen(["sleep", "60"]) as sleeper:
        with pytest.raises(TimeoutError, match="waited 0 s"):
            ours.receive_from(sleeper.pid, 0.02, 0.01)
        sleeper.send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, sleeper.pid, os.WSTOPPED | os.WNOWAIT)
        with pytest.raises(TimeoutError, match="it is stopped"):
            ours.receive_from(sleeper.pid, 60, 0.01)
        sleeper.kill()
    ours.close()
