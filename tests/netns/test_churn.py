"""Connections of every kind for an hour (25 seconds, unless PROXYVPN_CHURN_SECONDS says how long): nothing grows.

host: churn.py, `proxyvpn up` ---- mid: a proxy that is the far end as well
"""

from __future__ import annotations

import os

import pytest

from tests.netns.churn import KINDS, Churn
from tests.netns.internet import echoing_proxy
from tests.netns.load import many_descriptors
from tests.netns.rig import RESOLVER4, Rig, memory, open_fds
from tests.netns.up import Up, at_rest, up

pytestmark = pytest.mark.privileged

SECONDS = float(os.environ.get("PROXYVPN_CHURN_SECONDS", "25"))
GROWTH = 8 * 2**20


@pytest.mark.timeout(SECONDS + 120)
def test_churn_leaves_nothing_behind(bed: Rig) -> None:
    with many_descriptors(), echoing_proxy(bed.mid) as url, up(bed.host, "--proxy", url, "--dns", RESOLVER4) as running:
        compare_two_rests(bed, running)


def compare_two_rests(bed: Rig, tunnel: Up) -> None:
    """Churn until everything is as large as it gets, rest; churn for longer, rest; compare."""
    churn, pids = Churn(bed.host), (tunnel.process.pid, tunnel.helper, tunnel.worker)
    early = after(churn, bed, pids, SECONDS / 3, 1)
    late = after(churn, bed, pids, SECONDS * 2 / 3, 2)
    assert set(churn.done) == {kind.__name__ for kind in KINDS}
    assert all(now <= size + GROWTH for (_, size), (_, now) in zip(early, late, strict=True)), (early, late)
    assert all(now <= fds for (fds, _), (now, _) in zip(early, late, strict=True)), (early, late)
    assert (tunnel.process.pid, tunnel.helper, tunnel.worker) == pids


def after(churn: Churn, bed: Rig, pids: tuple[int, ...], seconds: float, seed: int) -> list[tuple[int, int]]:
    """Churn, see that every flow has ended in one way, and give the descriptors and the memory of each process."""
    churn.run(seconds, seed)
    assert churn.wrong == []
    at_rest(bed.host, 60)
    return [(open_fds(pid), memory(pid)) for pid in pids]
