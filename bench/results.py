"""The figures of a run: every sample by program and name, their medians, and the file that keeps them."""

from __future__ import annotations

import json
import statistics
from dataclasses import dataclass, field
from pathlib import Path


@dataclass
class Samples:
    """What was measured so far, and what went wrong."""

    figures: dict[str, dict[str, list[float]]] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)

    def add(self, program: str, figures: dict[str, float]) -> None:
        """Keep the figures of one scenario."""
        mine = self.figures.setdefault(program, {})
        for name, value in figures.items():
            mine.setdefault(name, []).append(value)

    def problem(self, program: str, scenario: str, why: str) -> None:
        """Keep why something could not be measured."""
        self.problems.append(f"{program}, {scenario}: {why.strip()}")

    @property
    def programs(self) -> list[str]:
        """Give the programs that have figures."""
        return list(self.figures)

    def of(self, program: str, name: str) -> list[float]:
        """Give the samples of one figure, none where it was not measured."""
        return self.figures.get(program, {}).get(name, [])

    def median(self, program: str, name: str) -> float | None:
        """Give the median of one figure."""
        found = self.of(program, name)
        return statistics.median(found) if found else None

    def ratio(self, name: str, program: str, other: str) -> float | None:
        """Give the median of one program as a share of that of another."""
        return divide(self.median(program, name), self.median(other, name))


def divide(one: float | None, other: float | None) -> float | None:
    """Give one / other where both were measured."""
    return one / other if one is not None and other else None


def write(folder: Path, samples: Samples, about: dict[str, object]) -> Path:
    """Write everything as JSON, and give where."""
    folder.mkdir(parents=True, exist_ok=True)
    summary = {
        program: {
            name: {"median": statistics.median(found), "min": min(found), "max": max(found), "samples": found}
            for name, found in figures.items()
        }
        for program, figures in samples.figures.items()
    }
    ratios = {
        other: {
            program: {
                name: ratio for name in samples.figures[program] if (ratio := samples.ratio(name, program, other))
            }
            for program in samples.programs
            if program != other
        }
        for other in ("limit", "redsocks")
        if other in samples.programs
    }
    name = str(about["date"]).replace(" UTC", "").replace(" ", "-").replace(":", "")
    file = folder / f"{name}.json"
    content = {"about": about, "figures": summary, "ratios_to": ratios, "problems": samples.problems}
    file.write_text(json.dumps(content, indent=1) + "\n")
    return file
