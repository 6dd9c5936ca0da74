"""Pure: the leak matrix as a table for a person: a row for each source, a column for each phase, leaked / offered."""

from __future__ import annotations

from collections.abc import Mapping

from tests.netns.leak_matrix import Cell, Cells

MEASURED: dict[str, dict[str, Cells]] = {}
"""What was measured in this run, by title and phase; conftest.py prints it."""


def record(title: str, phase: str, cells: Cells) -> None:
    """Note the cells of one phase for the table of that title."""
    MEASURED.setdefault(title, {})[phase] = cells


def table(title: str, columns: Mapping[str, Cells]) -> str:
    """Give the table; `columns` are the cells of each phase by its name."""
    heads = [name.split() for name in columns]
    height = max(map(len, heads), default=0)
    names = list(next(iter(columns.values()), {}))
    sums = [(name, total(cells)) for name, cells in columns.items()]
    rows = [
        *([""] + [words[at] if at < len(words) else "" for words in heads] + [word] for at, word in _sum_head(height)),
        *([name, *(shown(cells[name]) for cells in columns.values()), shown(_sum(columns, name))] for name in names),
        ["all", *(shown(cell) for _, cell in sums), shown(total(dict(sums)))],
    ]
    widths = [max(len(row[at]) for row in rows) for at in range(len(rows[0]))]
    lines = [
        "  ".join(
            word.rjust(width) if at else word.ljust(width)
            for at, (word, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
    return "\n".join([f"{title}: packets leaked / offered", *lines])


def shown(cell: Cell) -> str:
    """Give a cell in few letters: what leaked exactly, what was offered about."""
    offered = cell.offered
    about = (
        str(offered) if offered < 10_000 else f"{offered / 1e3:.0f}k" if offered < 10**6 else f"{offered / 1e6:.2f}M"
    )
    return f"{cell.leaked}/{about}"


def total(cells: Cells) -> Cell:
    """Give the sum of all cells."""
    return Cell(sum(each.offered for each in cells.values()), sum(each.leaked for each in cells.values()))


def _sum(columns: Mapping[str, Cells], name: str) -> Cell:
    return total({phase: cells[name] for phase, cells in columns.items()})


def _sum_head(height: int) -> list[tuple[int, str]]:
    return [(at, "all" if at == 0 else "") for at in range(height)]
