"""What a user does to the launcher, or to a running helper, as far as a user can; run as that user, by any Python.

attacker.py start JSON     become as JSON says (see start), then execute its "argv"
attacker.py probe PID      try to get at a process; print as JSON what succeeded
"""

from __future__ import annotations

import ctypes
import json
import os
import resource
import signal
import sys
from typing import Any

libc = ctypes.CDLL(None, use_errno=True)
PTRACE_TRACEME, PTRACE_CONT, PTRACE_ATTACH, PTRACE_SEIZE, PTRACE_DETACH = 0, 7, 16, 0x4206, 17
SYS_KCMP, SYS_PROCESS_VM_READV, SYS_PIDFD_GETFD = 312, 310, 438


def start(how: dict[str, Any]) -> None:
    """Execute argv with the given env, limits, signals and descriptors; the standard ones stay where not closed."""
    for number in range(3, how.get("open", 3)):
        os.dup2(os.open("/dev/null", os.O_RDONLY), number)
        os.set_inheritable(number, True)
    if how.get("block"):
        for number in set(range(1, 65)) - {signal.SIGKILL, signal.SIGSTOP, 32, 33}:
            signal.signal(number, signal.SIG_IGN)
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    if "alarm" in how:
        signal.setitimer(signal.ITIMER_REAL, how["alarm"])
    os.umask(how.get("umask", 0))
    os.chdir(how.get("cwd", "/tmp"))
    if how.get("trace"):
        _be_traced()
    words = [word.encode() for word in how["argv"]]
    arguments = (ctypes.c_char_p * (len(words) + 1))(*words, None)
    settings = [f"{name}={value}".encode() for name, value in how.get("env", {}).items()]
    environment = (ctypes.c_char_p * (len(settings) + 1))(*settings, None)
    program = how["program"].encode()
    for name, (soft, hard) in how.get("limits", {}).items():
        resource.setrlimit(getattr(resource, f"RLIMIT_{name}"), (soft, hard))
    for number in how.get("close", []):
        os.close(number)
    libc.execve(program, arguments, environment)
    os._exit(100 + ctypes.get_errno() % 100)


def _be_traced() -> None:
    """Go on in a child that the parent traces, as a debugger does."""
    child = os.fork()
    if child == 0:
        libc.ptrace(PTRACE_TRACEME, 0, 0, 0)
        return
    while os.WIFSTOPPED(status := os.waitpid(child, 0)[1]):
        passed_on = 0 if os.WSTOPSIG(status) == signal.SIGTRAP else os.WSTOPSIG(status)
        libc.ptrace(PTRACE_CONT, child, 0, passed_on)
    os._exit(os.waitstatus_to_exitcode(status))


def probe(pid: int) -> dict[str, bool]:
    """Try every way into another process that a debugger would take."""
    found: dict[str, bool] = {}
    for name in ("mem", "environ", "maps", "auxv", "stack", "syscall", "pagemap"):
        found[name] = _reads(f"/proc/{pid}/{name}")
    for name in ("exe", "cwd", "root", "fd/0", "ns/net"):
        found[name] = _works(lambda name=name: os.readlink(f"/proc/{pid}/{name}"))
    found["fd"] = _works(lambda: os.listdir(f"/proc/{pid}/fd"))
    found["fd/0 opened"] = _works(lambda: os.close(os.open(f"/proc/{pid}/fd/0", os.O_RDONLY | os.O_PATH)))
    found["map_files"] = _works(lambda: os.listdir(f"/proc/{pid}/map_files"))
    handle = os.pidfd_open(pid)
    found["pidfd_getfd"] = libc.syscall(SYS_PIDFD_GETFD, handle, 0, 0) >= 0
    found["process_vm_readv"] = _peek(pid)
    found["kcmp"] = libc.syscall(SYS_KCMP, pid, os.getpid(), 0, 0, 0) >= 0
    for name, request in (("ptrace attach", PTRACE_ATTACH), ("ptrace seize", PTRACE_SEIZE)):
        found[name] = libc.ptrace(request, pid, 0, 0) == 0
        if found[name]:
            os.waitpid(pid, 0) if request == PTRACE_ATTACH else None
            libc.ptrace(PTRACE_DETACH, pid, 0, 0)
    return found


def _peek(pid: int) -> bool:
    """Read memory that a process has where we have some: our own image, since it may be the same program."""
    room = ctypes.create_string_buffer(8)
    here = (ctypes.c_size_t * 2)(ctypes.addressof(room), 8)
    there = (ctypes.c_size_t * 2)(0x1000, 8)
    got = libc.syscall(SYS_PROCESS_VM_READV, pid, here, 1, there, 1, 0)
    return got >= 0 or ctypes.get_errno() != 1  # EFAULT is what comes after permission


def _reads(path: str) -> bool:
    def read() -> None:
        with open(path, "rb", buffering=0) as file:
            if not path.endswith("mem"):
                file.read(8)

    return _works(read)


def _works(act: Any) -> bool:
    try:
        act()
    except OSError:
        return False
    return True


if __name__ == "__main__":
    if sys.argv[1] == "start":
        start(json.loads(sys.argv[2] if sys.argv[2] != "-" else sys.stdin.read()))
    else:
        print(json.dumps(probe(int(sys.argv[2]))))
