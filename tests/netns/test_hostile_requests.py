"""The helper as an attacker meets it: every row of hostile.py is refused, and the kernel holds what it held before.

host                                     outside
10.98.0.5/24  up0 ============== down0   the proxies, the resolvers
fd98::5/64
attacker ==SEQPACKET== helper (CAP_NET_ADMIN)
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import pytest

from tests.netns import hostile
from tests.netns import kernel_support as support
from tests.netns.attack import Forker, forker, offer
from tests.netns.dumps import difference
from tests.netns.hostile import PHASES, Row
from tests.netns.kernel_support import Bed

pytestmark = pytest.mark.privileged

SPARE = 6 * 1024
"""KiB that a hostile packet may take beyond what an idle helper takes."""


@pytest.fixture(scope="module")
def bed() -> Iterator[Bed]:
    with support.bed() as made:
        yield made


@pytest.fixture(scope="module")
def helpers(bed: Bed) -> Iterator[Forker]:
    with forker(bed) as found:
        yield found


def idle_memory(helpers: Forker, phase: str) -> int:
    """Give the memory of a helper that does what a good asker asks, and nothing else."""
    victim = helpers.helper()
    victim.lead_to(phase)
    if phase != "closed":
        victim.ask("Status")
    code, memory = victim.end()
    assert code == 0, victim.said()
    return memory


def attack(helpers: Forker, rows: Iterable[Row], phase: str) -> list[str]:
    """Offer each row to a helper of its own in `phase`; give what went wrong, a line for each."""
    wrong, most = [], idle_memory(helpers, phase) + SPARE
    for row in rows:
        victim = helpers.helper()
        victim.lead_to(phase)
        problem = offer(victim, row)
        memory = victim.end()[1]
        if not problem and memory > most:
            problem = f"it took {memory} KiB, and more than {most} is not idle any more"
        if problem:
            wrong.append(f"{row.name}: {problem}")
    return wrong


def test_fresh_helper_refuses_every_hostile_packet(bed: Bed, helpers: Forker) -> None:
    before = bed.dump()
    assert attack(helpers, hostile.in_fresh(), "fresh") == []
    assert difference(before, bed.dump()) == ""


@pytest.mark.parametrize("phase", PHASES)
def test_good_message_at_the_wrong_time_is_refused_and_all_is_undone(bed: Bed, helpers: Forker, phase: str) -> None:
    before = bed.dump()
    assert attack(helpers, hostile.out_of_phase(phase), phase) == []
    assert difference(before, bed.dump()) == ""


def test_hostile_packet_under_a_tunnel_undoes_the_tunnel(bed: Bed, helpers: Forker) -> None:
    before = bed.dump()
    assert attack(helpers, hostile.while_up(), "engaged") == []
    assert difference(before, bed.dump()) == ""
