"""The first lines of an installed helper: started by the launcher or by systemd, as a script, without site.

Not imported by anything: `proxyvpn setup` copies it beside the library that it names.
"""

import fcntl
import os
import sys

_HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.append(f"{_HERE}/lib")

from proxyvpn import privilege  # noqa: E402

# Before anything else is imported: no ambient capability, no new privileges, no ptrace.
privilege.keep_only((privilege.CAP_NET_ADMIN,))


def _start() -> int:
    """Hold the lock that keeps `proxyvpn setup` from replacing this library under us, and serve."""
    try:
        lock = os.open(f"{_HERE}/lock", os.O_RDONLY | os.O_CLOEXEC)
        fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        print("proxyvpn: `proxyvpn setup` is at work here: try again in a moment", file=sys.stderr)
        return 1
    except OSError as error:
        print(f"proxyvpn: {_HERE}/lock: {error.strerror}: sudo proxyvpn setup", file=sys.stderr)
        return 1
    from proxyvpn import helper  # noqa: PLC0415

    return helper.main(group=os.fstat(lock).st_gid)


if __name__ == "__main__":
    sys.exit(_start())
