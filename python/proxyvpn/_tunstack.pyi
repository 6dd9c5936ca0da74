"""The typed face of the Rust data plane (rust/lib.rs)."""

from collections.abc import Mapping, Sequence

from proxyvpn.messages import Start, Upstream

class Stack:
    """Threads that carry packets between TUN queues and the proxies; the GIL is not held while they run.

    `start` says which proxies, in the order in which they are tried, and how; `files` are descriptors by name, which
    the caller keeps. Raises ValueError for a setting that is none, OSError.
    """

    def __init__(self, start: Start, files: Mapping[str, int]) -> None: ...
    def fileno(self) -> int:
        """A descriptor that is readable when notes(), tried() or wishes() has something, or when a thread has ended."""
    def notes(self) -> list[str]:
        """Take the lines for the log (printable, without secrets, rate-limited) that have come up since the last call.

        To be called before tried() and wishes(). Raises RuntimeError when a thread has ended by itself: the process
        must end.
        """
    def attempt(self, target: tuple[str, int] | None) -> None:
        """Begin to ask each proxy for a tunnel to `target` (None: to port 443 of its own). ValueError, OSError."""
    def tried(self) -> list[tuple[int, str, str]] | None:
        """Take what came of attempt(), once it is over: the proxy's index, `ok` or a kind of refusal, and its words."""
    def carry(self, queues: Sequence[int]) -> None:
        """Carry packets of TUN queues (IFF_VNET_HDR set, non-blocking is set here); they are duplicated. OSError."""
    def wishes(self, most: int) -> list[tuple[int, str, bytes]]:
        """Take at most `most` wishes, the oldest first: number, kind, content."""
    def grant(self, number: int, content: bytes, refusal: str, fd: int) -> None:
        """Grant a wish, or with words refuse it. `fd` is given away; -1: none."""
    def counters(self) -> dict[str, int]:
        """Give all counters, always in the same order; they only ever grow, but for the gauges named `*_now`."""
    def standings(self) -> list[tuple[str, int, str, int, dict[str, int]]]:
        """Give how each proxy is, in the order in which they are tried: address, port, state, for how many seconds, and
        its own counters."""
    def replace(self, upstreams: Sequence[Upstream]) -> None:
        """Let connections that begin from now on use these proxies; open ones stay. Raises ValueError."""
    def stop(self) -> None:
        """Reset every flow, end the threads and wait for them. Idempotent."""

def enter_sandbox(ports: Sequence[int]) -> list[str]:
    """Give up, for the whole process and for good, what the data plane does not need.

    Afterwards TCP connects only to `ports` are possible, and no file can be opened. Returns one line for each thing
    that this kernel cannot enforce. Raises OSError. Call with all modules imported, before Stack().
    """
