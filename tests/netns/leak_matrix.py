"""What is offered and what leaks, by row (leak_rows.py): the senders, the detector, and the cells between two marks.

    box: leak_offer.py ---- host: leak_offer.py, proxyvpn ---- [netdev counters] mid: proxy ---- world

The senders never stop: they hammer before `up`, through every phase (leak_phases.py), and after it. Before each phase a
control shows that the detector sees every row when nothing protects.
"""

from __future__ import annotations

import contextlib
import os
import struct
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from tests.netns import leak_offer, wait
from tests.netns.internet import echoing_proxy
from tests.netns.leak_rows import OTHER, PLAIN_UID, ROWS, Row
from tests.netns.leak_watch import Watch
from tests.netns.rig import Rig

PACKETS: Final = int(os.environ.get("PROXYVPN_LEAK_PACKETS", "2000"))
"""How many packets each row offers in each phase; connections are a tenth of that."""
GATEWAY4, GATEWAY6 = "10.71.0.3", "2001:db8:71::3"
"""Another way out of the machine."""
PER_SECOND: Final = 2500
CONTROL: Final = 200
SEEN_AT_LEAST: Final = 0.5
"""The part of what is offered that the detector must see when nothing protects; the kernel may drop some under load."""


@dataclass(frozen=True, slots=True)
class Cell:
    """One row in one phase."""

    offered: int
    leaked: int


Cells = dict[str, Cell]


@dataclass(frozen=True, slots=True)
class Mark:
    """What had been offered and seen at one moment."""

    offered: dict[str, int]
    seen: dict[str, int]

    def until(self, later: Mark) -> Cells:
        """Give what happened since."""
        names = (*self.offered, OTHER)
        return {
            name: Cell(later.offered.get(name, 0) - self.offered.get(name, 0), later.seen[name] - self.seen[name])
            for name in names
        }


@dataclass(slots=True)
class Bench:
    """A test bed where every row is being offered."""

    bed: Rig
    watch: Watch
    counts: Path
    proxy: str
    rows: tuple[Row, ...] = ROWS
    killswitch: bool = True
    more: tuple[str, ...] = ()
    """Further options of every `up`."""
    before: tuple[str, ...] = ()
    """What `proxyvpn` is run with: to hide some ways to load a firewall."""
    ways: tuple[str, ...] = ()
    """The same for a helper that is run alone."""
    packets: int = PACKETS
    told: set[str] = field(default_factory=set)
    """Memberships that were seen once: the kernel takes its time with them, and one control has to do."""

    def offered(self) -> dict[str, int]:
        """Give what was offered of each row so far."""
        numbers = struct.unpack(f"{len(self.rows)}Q", self.counts.read_bytes())
        return {row.name: number for row, number in zip(self.rows, numbers, strict=True)}

    def mark(self) -> Mark:
        """Note where the counters stand. What is on its way at this moment counts as seen later."""
        return Mark(self.offered(), self.watch.now())

    def since(self, mark: Mark) -> Cells:
        """Give what was offered since `mark`, and what of it has left."""
        return mark.until(Mark(self.offered(), self.watch.settled()))

    def hammer(self, packets: int = 0) -> None:
        """Go on until every row has offered its share of so many packets."""
        before = self.offered()
        wanted = {row.name: max(2, int((packets or self.packets) * row.share)) for row in self.rows}

        def behind() -> list[str]:
            now = self.offered()
            return [name for name, number in wanted.items() if now[name] - before[name] < number]

        try:
            wait.until(lambda: not behind(), "all rows are offered", 20 + 4 * (packets or self.packets) / PER_SECOND)
        except AssertionError as error:
            raise AssertionError(f"{error}; these are not: {behind()}") from None

    def control(self) -> None:
        """Show that the detector sees every row when nothing protects. Raises AssertionError."""
        begun = self.mark()
        self.hammer(CONTROL)
        wait.until(lambda: self._slow_ones_seen(begun), "memberships are told of, and streams opened again")
        found = self.since(begun)
        seen = {row.name for row in self.rows if found[row.name].leaked >= least(row, found[row.name])}
        blind = {row.name: found[row.name] for row in self.rows if row.name not in seen | self.told}
        self.told |= {row.name for row in self.rows if row.kind == "membership"} & seen
        assert not blind, f"the detector does not see what leaves: {blind}"

    def _slow_ones_seen(self, begun: Mark) -> bool:
        """The kernel tells of memberships within a second or two; a stream that hangs is given up in half of one."""
        now = self.watch.now()
        slow = {row.name for row in self.rows if row.kind in ("membership", "stream")} - self.told
        return all(now[name] > begun.seen[name] for name in slow)


def least(row: Row, cell: Cell) -> int:
    """Give how many packets of a row must be seen when nothing protects; the kernel sums up memberships and bytes."""
    return 1 if row.kind in ("membership", "stream") else max(1, int(cell.offered * SEEN_AT_LEAST))


def leaks(cells: Cells, may: frozenset[str] = frozenset()) -> dict[str, Cell]:
    """Give the cells in which something leaked that may not."""
    return {name: cell for name, cell in cells.items() if cell.leaked and name not in may}


@contextlib.contextmanager
def bench(bed: Rig, rows: tuple[Row, ...] = ROWS, resolvers: bool = True) -> Iterator[Bench]:
    """Run the senders and the detector; needs the servers of `world`. `resolvers`: DNS may go to them directly."""
    counts = bed.home / "offered"
    counts.write_bytes(bytes(8 * len(rows)))
    counts.chmod(0o666)
    bed.mid.sh(f"ip addr add {GATEWAY4}/24 dev h0; ip addr add {GATEWAY6}/64 dev h0 nodad")
    bed.host.sh("sysctl -q -w net.ipv4.tcp_fastopen=5")  # data in the SYN without having been there before
    with echoing_proxy(bed.mid) as proxy:
        watch = Watch(bed, int(proxy.rpartition(":")[2]), rows, resolvers)
        try:
            with _senders(bed, counts, rows):
                yield Bench(bed, watch, counts, proxy, rows)
        finally:
            watch.close()


@contextlib.contextmanager
def _senders(bed: Rig, counts: Path, rows: tuple[Row, ...]) -> Iterator[None]:
    groups = {
        (space, root): [row.order(slot) for slot, row in enumerate(rows) if (row.space, row.root) == (space, root)]
        for space in ("host", "box")
        for root in (False, True)
    }
    started = []
    for (space, root), orders in groups.items():
        if not orders:
            continue
        out = bed.home / f"offers-{space}-{'root' if root else 'user'}"
        words = (str(counts), str(PER_SECOND), str(0 if root else PLAIN_UID), *orders)
        with out.open("wb") as file:
            namespace = bed.host if space == "host" else bed.box
            started.append(namespace.start(sys.executable, "-I", leak_offer.__file__, *words, stdout=file, stderr=file))
        wait.for_line(out, "ready")
    try:
        yield
        assert all(each.poll() is None for each in started), "a sender has ended"
    finally:
        for each in started:
            each.kill()
            each.wait()
