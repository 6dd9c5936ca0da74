"""Runs hostile code in the worker's place: a process that has entered the worker's sandbox, and then tries everything.

    python captive.py sandbox|free

It is root with every capability, so that only the sandbox can be what denies; `free` is the positive control, which
does not enter it and leaves out what would do harm. Prints one JSON object: what was tried, and the error or `done`.
Its parent process has the servers to connect to, and is what it tries to signal, trace and read.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import json
import mmap
import os
import platform
import select
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from proxyvpn import _tunstack

PORT, OTHER = 3128, 3129
"""The proxy's port, and another that somebody listens on as well."""
_libc = ctypes.CDLL(None, use_errno=True)
_NUMBERS: Final = {
    "x86_64": {
        "bpf": 321,
        "perf_event_open": 298,
        "keyctl": 250,
        "add_key": 248,
        "userfaultfd": 323,
        "kexec_load": 246,
    },
    "aarch64": {
        "bpf": 280,
        "perf_event_open": 241,
        "keyctl": 219,
        "add_key": 217,
        "userfaultfd": 282,
        "kexec_load": 104,
    },
}[platform.machine()] | {"io_uring_setup": 425, "pidfd_open": 434, "clone3": 435, "openat2": 437, "unknown": 1000}
_TUNSETIFF, _TUNSETPERSIST, _TUNSETOWNER = 0x400454CA, 0x400454CB, 0x400454CC
_TUNSETOFFLOAD, _SIOCSIFFLAGS, _TIOCSTI = 0x400454D0, 0x8914, 0x5412
_IFF_TUN_NO_PI = 0x1001
_MPTCP, _SCTP = 262, 132
_ARGUMENTS = (ctypes.c_char_p * 2)(b"true", None)
_TAKE_ALL = ctypes.create_string_buffer(struct.pack("HBBI", 6, 0, 0, 0xFFFF))
_CLONE_NEWUSER, _CLONE_NEWNET = 0x10000000, 0x40000000


@dataclass(frozen=True, slots=True)
class Place:
    """What is there before the sandbox is entered: descriptors, the parent's pid, a folder that anyone may write to."""

    parent: int
    folder: str
    tun: int
    loose_tun: int
    root: int
    program: int
    file: int
    namespace: int


def call(name: str, *args: Any) -> int:
    """Call a function of the C library, or a system call that it has no function for. Raises OSError."""
    ctypes.set_errno(0)
    wide = [ctypes.c_long(each) if isinstance(each, int) else each for each in args]
    number = _NUMBERS.get(name)
    result = getattr(_libc, name)(*wide) if number is None else _libc.syscall(ctypes.c_long(number), *wide)
    if result == -1:
        raise OSError(ctypes.get_errno(), name)
    return int(result)


def child(start: Callable[[], int]) -> None:
    """Start a process in whatever way; the process ends at once."""
    pid = start()
    if pid == 0:
        os._exit(0)
    os.waitpid(pid, 0)


def clone3() -> int:
    """fork(2) by another name."""
    return call("clone3", struct.pack("8Q", 0, 0, 0, 0, signal.SIGCHLD, 0, 0, 0), 64)


def connect(address: tuple[str, int], family: int = socket.AF_INET, proto: int = 0) -> None:
    with socket.socket(family, socket.SOCK_STREAM, proto) as sock:
        sock.settimeout(3)
        sock.connect(address)


def fast_open() -> None:
    """connect(2) without connect(2): TCP Fast Open, by sendto(2)."""
    with socket.socket() as sock:
        sock.sendto(b"x", socket.MSG_FASTOPEN, ("127.0.0.1", OTHER))


def fast_open_by_message() -> None:
    """The same, by sendmsg(2)."""
    with socket.socket() as sock:
        sock.sendmsg([b"x"], [], socket.MSG_FASTOPEN, ("127.0.0.1", OTHER))


def option(level: int, name: int, value: int | bytes) -> None:
    with socket.socket() as sock:
        sock.setsockopt(level, name, value)


def unix(address: str) -> None:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.connect(address)


def new(family: int, kind: int, proto: int = 0) -> None:
    socket.socket(family, kind, proto).close()


def a_pair() -> None:
    for sock in socket.socketpair():
        sock.close()


def bound() -> None:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))


def listening() -> None:
    with socket.socket() as sock:
        sock.listen()


def datagram() -> None:
    with socket.socket(type=socket.SOCK_DGRAM) as sock:
        sock.sendto(b"x", ("127.0.0.1", 53))


def filter_program() -> bytes:
    """A classic BPF program that takes every packet (struct sock_fprog)."""
    return struct.pack("HP", 1, ctypes.addressof(_TAKE_ALL))


def interface_flags() -> None:
    with socket.socket() as sock:
        fcntl.ioctl(sock, _SIOCSIFFLAGS, struct.pack("16sH22x", b"captive0", 0))


def ioctl(fd: int, request: int, argument: Any) -> None:
    fcntl.ioctl(fd, request, argument)


def written(path: str) -> None:
    os.close(os.open(path, os.O_WRONLY | os.O_CREAT))


def executable_memory() -> None:
    mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC).close()


def memory_made_executable() -> None:
    with mmap.mmap(-1, 4096) as area:
        hold = ctypes.c_char.from_buffer(area)
        where = ctypes.addressof(hold)
        del hold
        call("mprotect", where, 4096, 5)


def read_the_parent(place: Place) -> None:
    into = ctypes.create_string_buffer(8)
    local = struct.pack("PN", ctypes.addressof(into), 8)
    remote = struct.pack("PN", id(PORT), 8)
    call("process_vm_readv", place.parent, local, 1, remote, 1, 0)


def traced(place: Place) -> None:
    call("ptrace", 0x4206, place.parent, 0, 0)  # PTRACE_SEIZE: does not stop it
    os.kill(place.parent, 0)


def handle(place: Place) -> None:
    """name_to_handle_at(2) and open_by_handle_at(2): a file without its path."""
    buffer = ctypes.create_string_buffer(struct.pack("Ii", 128, 0), 8 + 128)
    mount = ctypes.c_int()
    call("name_to_handle_at", place.root, b".", buffer, ctypes.byref(mount), 0)


TRIED: Final[dict[str, Callable[[Place], Any]]] = {
    # files
    "read a file": lambda _: os.close(os.open("/etc/passwd", os.O_RDONLY)),
    "read /proc/self": lambda _: os.close(os.open("/proc/self/status", os.O_RDONLY)),
    "read the parent's environment": lambda p: os.close(os.open(f"/proc/{p.parent}/environ", os.O_RDONLY)),
    "read the parent's memory file": lambda p: os.close(os.open(f"/proc/{p.parent}/mem", os.O_RDONLY)),
    "open /dev/net/tun": lambda _: os.close(os.open("/dev/net/tun", os.O_RDWR)),
    "open beside an open directory": lambda p: os.close(os.open("etc/passwd", os.O_RDONLY, dir_fd=p.root)),
    "openat2": lambda _: os.close(call("openat2", -100, b"/etc/passwd", struct.pack("3Q", 0, 0, 0), 24)),
    "list an open directory": lambda p: os.listdir(p.root),
    "write a file": lambda p: written(f"{p.folder}/new"),
    "look at a file": lambda _: os.stat("/etc/passwd"),
    "make a directory": lambda p: os.mkdir(f"{p.folder}/directory"),
    "make a link": lambda p: os.symlink("/", f"{p.folder}/link"),
    "make a device": lambda p: os.mkfifo(f"{p.folder}/fifo"),
    "rename": lambda p: os.rename(f"{p.folder}/file", f"{p.folder}/renamed"),
    "remove": lambda p: os.unlink(f"{p.folder}/other"),
    "change a mode": lambda p: os.chmod(f"{p.folder}", 0o755),
    "change a mode by descriptor": lambda p: os.fchmod(p.file, 0o600),
    "truncate a descriptor": lambda p: os.ftruncate(p.file, 0),
    "change the directory": lambda _: os.chdir("/tmp"),
    "change the root": lambda _: os.chroot("/"),
    "watch files": lambda _: call("inotify_init1", 0),
    "a file's handle": handle,
    "a file in memory": lambda _: os.close(os.memfd_create("captive")),
    # connections
    "connect to another port": lambda _: connect(("127.0.0.1", OTHER)),
    "connect to another port, IPv6": lambda _: connect(("::1", OTHER), socket.AF_INET6),
    "connect by MPTCP": lambda _: connect(("127.0.0.1", OTHER), proto=_MPTCP),
    "connect by TCP Fast Open": lambda _: fast_open(),
    "connect by TCP Fast Open and a message": lambda _: fast_open_by_message(),
    "an SCTP socket": lambda _: new(socket.AF_INET, socket.SOCK_STREAM, _SCTP),
    "bind": lambda _: bound(),
    "listen": lambda _: listening(),
    "a datagram": lambda _: datagram(),
    "a UNIX socket": lambda p: unix(f"{p.folder}/unix"),
    "an abstract UNIX socket": lambda p: unix(f"\0{p.folder}"),
    "a pair of sockets": lambda _: a_pair(),
    "a netlink socket": lambda _: new(socket.AF_NETLINK, socket.SOCK_RAW, 0),
    "a packet socket": lambda _: new(socket.AF_PACKET, socket.SOCK_RAW, 0x300),
    "a raw socket": lambda _: new(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP),
    "SO_MARK": lambda _: option(socket.SOL_SOCKET, socket.SO_MARK, 0),
    "SO_BINDTODEVICE": lambda _: option(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, b"lo"),
    "SO_DONTROUTE": lambda _: option(socket.SOL_SOCKET, socket.SO_DONTROUTE, 1),
    "IP_UNICAST_IF": lambda _: option(socket.IPPROTO_IP, 50, struct.pack(">I", 1)),
    "IP_TRANSPARENT": lambda _: option(socket.IPPROTO_IP, 19, 1),
    "IP_OPTIONS (a source route)": lambda _: option(socket.IPPROTO_IP, 4, b"\x01\x01\x01\x00"),
    "TCP_FASTOPEN_CONNECT": lambda _: option(socket.IPPROTO_TCP, 30, 1),
    "TCP_REPAIR": lambda _: option(socket.IPPROTO_TCP, 19, 1),
    "a socket's filter": lambda _: option(socket.SOL_SOCKET, 26, filter_program()),
    # processes
    "fork": lambda _: child(os.fork),
    "clone3": lambda _: child(clone3),
    "execute a descriptor": lambda p: call("execveat", p.program, b"", _ARGUMENTS, _ARGUMENTS, 0x1000),
    "signal the parent": lambda p: os.kill(p.parent, 0),
    "signal init": lambda _: os.kill(1, 0),
    "signal a thread of the parent": lambda p: call("tgkill", p.parent, p.parent, 0),
    "a pidfd of the parent": lambda p: os.close(call("pidfd_open", p.parent, 0)),
    "trace the parent": traced,
    "read the parent's memory": read_the_parent,
    "the parent's limits": lambda p: call("prlimit", p.parent, 7, None, ctypes.create_string_buffer(16)),
    "the parent's priority": lambda p: os.setpriority(os.PRIO_PROCESS, p.parent, 0),
    # privilege and the kernel
    "be dumpable again": lambda _: call("prctl", 4, 1, 0, 0, 0),
    "change the user": lambda _: os.setresuid(0, 0, 0),
    "change groups": lambda _: os.setgroups([]),
    "change the personality": lambda _: call("personality", 0x0400000),
    "core files again": lambda _: call("setrlimit", 4, struct.pack("2Q", 1, 1)),
    "unshare": lambda _: call("unshare", _CLONE_NEWNET),
    "a new user namespace": lambda _: call("unshare", _CLONE_NEWUSER),
    "enter a namespace": lambda p: call("setns", p.namespace, 0),
    "mount": lambda _: call("mount", b"none", b"/mnt", b"tmpfs", 0, None),
    "unmount": lambda _: call("umount2", b"/mnt", 2),
    "io_uring": lambda _: os.close(call("io_uring_setup", 4, bytes(120))),
    "bpf": lambda _: os.close(call("bpf", 0, struct.pack("4I", 2, 4, 4, 1) + bytes(56), 72)),
    "perf events": lambda _: os.close(
        call("perf_event_open", struct.pack("2IQ", 1, 128, 0) + bytes(112), 0, -1, -1, 0)
    ),
    "keyctl": lambda _: call("keyctl", 0, -3, 0),
    "add a key": lambda _: call("add_key", b"user", b"captive", b"x", 1, -2),
    "user faults": lambda _: os.close(call("userfaultfd", 1)),
    "executable memory": lambda _: executable_memory(),
    "memory made executable": lambda _: memory_made_executable(),
    "set the host's name": lambda _: socket.sethostname("captive"),
    "shared memory": lambda _: call("shmget", 0, 4096, 0o600),
    # what it holds
    "TUNSETPERSIST": lambda p: ioctl(p.tun, _TUNSETPERSIST, 1),
    "TUNSETIFF": lambda p: ioctl(p.loose_tun, _TUNSETIFF, _queue("captive1")),
    "TUNSETOWNER": lambda p: ioctl(p.tun, _TUNSETOWNER, 0),
    "TUNSETOFFLOAD": lambda p: ioctl(p.tun, _TUNSETOFFLOAD, 0),
    "an interface's flags": lambda _: interface_flags(),
}
"""By name; each raises OSError where it is denied."""

TRIED_IN_SANDBOX: Final[dict[str, Callable[[Place], Any]]] = {
    "execute a program": lambda _: os.execv("/bin/true", ["true"]),
    "let others trace us": lambda _: call("prctl", 0x59616D61, -1, 0, 0, 0),
    "a ping socket": lambda _: new(socket.AF_INET, socket.SOCK_DGRAM, socket.IPPROTO_ICMP),
    "reboot": lambda _: call("reboot", 0x7FFFFFFF),
    "load a kernel": lambda _: call("kexec_load", 0, 0, None, 0xFFFF),
    "load a module": lambda _: call("init_module", None, 0, b""),
    "set the time": lambda _: call("settimeofday", None, struct.pack("2i", 0, 0)),
    "type into a terminal": lambda _: ioctl(2, _TIOCSTI, b"x"),
    "an unknown system call": lambda _: call("unknown"),
}
"""What does harm, or has no meaning, where it is not denied."""

NEEDED: Final[dict[str, Callable[[Place], Any]]] = {
    "connect to the proxy": lambda _: connect(("127.0.0.1", PORT)),
    "connect to the proxy, IPv6": lambda _: connect(("::1", PORT), socket.AF_INET6),
    "connect to the proxy's port elsewhere": lambda _: connect(("127.0.0.2", PORT)),
    "read a packet": lambda p: read_packet(p.tun),
    "TCP_NODELAY": lambda _: option(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1),
    "SO_LINGER": lambda _: option(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("2i", 1, 0)),
    "a thread": lambda _: run_thread(),
    "memory": lambda _: mmap.mmap(-1, 1 << 20).close(),
    "epoll": lambda _: select.epoll().close(),
    "random bytes": lambda _: os.urandom(8),
}
"""What the worker does, and, with the last address, what it could do: Landlock knows ports, not addresses."""


def read_packet(tun: int) -> None:
    try:
        os.read(tun, 2048)
    except BlockingIOError:
        return


def run_thread() -> None:
    thread = threading.Thread(target=os.getpid)
    thread.start()
    thread.join()


def _queue(name: str) -> bytes:
    return struct.pack("16sH22x", name.encode(), _IFF_TUN_NO_PI)


def outcome(act: Callable[[Place], Any], place: Place) -> str:
    """Do it; give `done` or the error's name."""
    try:
        act(place)
    except OSError as error:
        return errno.errorcode.get(error.errno or 0, str(error))
    return "done"


def alone(act: Callable[[Place], Any], place: Place) -> str:
    """The same in a process of its own, whose state does not matter afterwards."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.write(writing, outcome(act, place).encode())
        os._exit(0)
    os.close(writing)
    os.waitpid(pid, 0)
    with open(reading, "rb") as file:
        return file.read().decode() or "done"  # it became another program


def prepare(folder: str) -> Place:
    """Make what the captive holds, and the servers that it tries to reach."""
    for name in ("file", "other"):
        written(f"{folder}/{name}")
    tun, loose = (os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK) for _ in range(2))
    ioctl(tun, _TUNSETIFF, _queue("captive0"))
    for address in (f"{folder}/unix", f"\0{folder}"):
        _serve(socket.AF_UNIX, address)
    for port in (PORT, OTHER):
        _serve(socket.AF_INET, ("0.0.0.0", port))
        _serve(socket.AF_INET6, ("::", port))
    return Place(
        *(os.getpid(), folder, tun, loose),
        root=os.open("/", os.O_RDONLY | os.O_DIRECTORY),
        program=os.open("/bin/true", os.O_RDONLY),
        file=os.open(f"{folder}/file", os.O_RDWR),
        namespace=os.open("/proc/self/ns/net", os.O_RDONLY),
    )


def _serve(family: int, address: Any) -> None:
    sock = socket.socket(family)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if family == socket.AF_INET6:
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    sock.bind(address)
    sock.listen(64)
    _SERVERS.append(sock)


_SERVERS: Final[list[socket.socket]] = []


def captive(place: Place, mode: str) -> dict[str, str]:
    """Try everything; give the outcomes."""
    if mode == "free":
        found = {name: alone(act, place) for name, act in {**TRIED, **NEEDED}.items()}
        return {**found, "missing": ""}
    missing = _tunstack.enter_sandbox([PORT])
    found = {name: outcome(act, place) for name, act in {**TRIED, **TRIED_IN_SANDBOX, **NEEDED}.items()}
    return {**found, "missing": "; ".join(missing)}


def main() -> None:
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    with tempfile.TemporaryDirectory() as folder:
        place = prepare(folder)
        sys.stdout.flush()
        pid = os.fork()
        if pid == 0:
            os.write(1, json.dumps(captive(place, sys.argv[1])).encode())
            os._exit(0)
        sys.exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))


if __name__ == "__main__":
    main()
