"""`up` ended half-way: by a signal or by `kill -9`, after each so many steps in the kernel.

host: `proxyvpn up`, hardly begun ---- mid: squid
"""

from __future__ import annotations

import contextlib
import signal
import subprocess
from collections.abc import Iterator

import pytest

from tests.netns import proxies, wait
from tests.netns.dumps import difference, dump
from tests.netns.rig import RESOLVER4, Rig
from tests.netns.up import PROGRAM, environment, proxyvpn

pytestmark = pytest.mark.privileged

STEPS = (0, 1, 2, 4, 6, 8, 10, 12, 14)


@pytest.fixture
def proxy(fresh: Rig) -> Iterator[proxies.RunningProxy]:
    """squid, for one test alone."""
    with proxies.squid(fresh.mid) as found:
        yield found


@contextlib.contextmanager
def begun(bed: Rig, proxy: proxies.RunningProxy, steps: int, *options: str) -> Iterator[subprocess.Popen[bytes]]:
    """Run `up` until it has announced so many steps."""
    path = bed.host.home / f"early-{steps}.err"
    with path.open("wb") as err:
        words = (PROGRAM, "up", "--proxy", proxy.url4, "--dns", RESOLVER4, *options)
        process = bed.host.start(*words, stderr=err, env=environment())
    if steps:
        wait.until(lambda: path.read_bytes().count(b"[#]") >= steps, f"{steps} steps")
    yield process
    assert b"Traceback" not in path.read_bytes()


@pytest.mark.parametrize("killswitch", ["--killswitch", "--no-killswitch"])
@pytest.mark.parametrize("sig", [signal.SIGINT, signal.SIGTERM])
def test_signal_half_way_leaves_nothing(fresh: Rig, proxy: proxies.RunningProxy, killswitch: str, sig: int) -> None:
    before = dump(fresh.host)
    for steps in STEPS[1:]:
        with begun(fresh, proxy, steps, killswitch) as process:
            process.send_signal(sig)
            process.wait(15)
        assert difference(before, dump(fresh.host)) == "", f"after {steps} steps"


@pytest.mark.parametrize("killswitch", ["--killswitch", "--no-killswitch"])
def test_kill_half_way_is_mended_by_teardown(fresh: Rig, proxy: proxies.RunningProxy, killswitch: str) -> None:
    before = dump(fresh.host)
    for steps in STEPS:
        with begun(fresh, proxy, steps, killswitch) as process:
            process.kill()
            process.wait(15)
        wait.until(lambda: tidy(fresh), "the helper lets go", 15)
        assert difference(before, dump(fresh.host)) == "", f"after {steps} steps"


def tidy(bed: Rig) -> bool:
    """Run teardown; False while the orphaned helper still holds the namespace."""
    done = proxyvpn(bed.host, "teardown")
    assert done.returncode in (0, 7), done.stderr
    return done.returncode == 0
