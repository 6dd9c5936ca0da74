"""The typed face of the Rust data plane (rust/lib.rs)."""

from collections.abc import Sequence

class Stack:
    """Threads that carry packets between TUN queues and the proxies; the GIL is not held while they run.

    `queues`: TUN file descriptors (IFF_VNET_HDR set, non-blocking is set here); they are duplicated, the caller keeps
    and may close its own. `upstreams`: (address as text, port, Proxy-Authorization value or b"") in the order in which
    they are tried. Raises ValueError for a bad address or header value, OSError when a descriptor cannot be used.
    """

    def __init__(self, queues: Sequence[int], upstreams: Sequence[tuple[str, int, bytes]]) -> None: ...
    def fileno(self) -> int:
        """A descriptor that is readable when notes() has something, or when a thread has ended."""
    def notes(self) -> list[str]:
        """Take the lines for the log (printable, without secrets, rate-limited) that have come up since the last call.

        Raises RuntimeError when a thread has ended by itself: the process must end.
        """
    def counters(self) -> dict[str, int]:
        """Give all counters, always in the same order; they only ever grow, but for the gauges named `*_now`."""
    def replace(self, upstreams: Sequence[tuple[str, int, bytes]]) -> None:
        """Let connections that begin from now on use these proxies; open ones stay. Raises ValueError."""
    def stop(self) -> None:
        """Reset every flow, end the threads and wait for them. Idempotent."""

def enter_sandbox(ports: Sequence[int]) -> list[str]:
    """Give up, for the whole process and for good, what the data plane does not need.

    Afterwards TCP connects only to `ports` are possible, and no file can be opened. Returns one line for each thing
    that this kernel cannot enforce. Raises OSError. Call with all modules imported, before Stack().
    """
