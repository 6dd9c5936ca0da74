"""The figures of a run as an SVG picture: one panel of bars per figure, one bar per program. Pure, no dependency."""

from __future__ import annotations

from html import escape

from bench.results import Samples
from bench.table import number

PANELS = {
    "up1_gbit_s": ("Upload, 1 stream", "Gbit/s, more is better"),
    "down1_gbit_s": ("Download, 1 stream", "Gbit/s, more is better"),
    "connect_per_s": ("Connections per second", "8 clients, more is better"),
    "up8_gbit_s": ("Upload, 8 streams", "Gbit/s, more is better"),
    "down8_gbit_s": ("Download, 8 streams", "Gbit/s, more is better"),
    "rr64_p50_us": ("Request and response, 64 connections", "p50, microseconds, less is better"),
    "up1_cpu_s_per_gb": ("CPU of the program, upload", "seconds per GB, less is better"),
    "down1_cpu_s_per_gb": ("CPU of the program, download", "seconds per GB, less is better"),
    "rr1_p50_us": ("Request and response, 1 connection", "p50, microseconds, less is better"),
}
NAMES = {"direct": "no proxy", "limit": "CONNECT alone"}
COLUMNS, WIDTH, LABEL, BAR, ROW, GAP = 3, 320, 122, 140, 22, 24
OURS, OTHERS, YARDSTICKS = "#1d5fa8", "#8aa2b8", "#d3d9df"


def svg(samples: Samples, about: dict[str, object]) -> str:
    """Give the picture; the whiskers are the least and the most of the rounds."""
    panels = [name for name in PANELS if any(samples.of(program, name) for program in samples.programs)]
    height = 58 + ROW * len(samples.programs)
    rows = -(-len(panels) // COLUMNS)
    width, total = GAP + COLUMNS * (WIDTH + GAP), 16 + rows * (height + 12) + 28
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {total}" width="{width}" height="{total}"'
        ' font-family="system-ui, sans-serif" font-size="13" fill="#1b1f24">',
        f'<rect width="{width}" height="{total}" fill="#ffffff"/>',
    ]
    for index, name in enumerate(panels):
        x, y = GAP + index % COLUMNS * (WIDTH + GAP), 16 + index // COLUMNS * (height + 12)
        parts.append(f'<g transform="translate({x} {y})">{_panel(samples, name)}</g>')
    foot = (
        f"{about['cpu']}, {about['processors']} processors, Linux {about['kernel']}, {str(about['date'])[:10]};"
        f" median of {about['rounds']} rounds, whiskers: least and most. All ends share the processors."
    )
    parts.append(f'<text x="{GAP}" y="{total - 14}" font-size="11" fill="#57606a">{escape(foot)}</text></svg>')
    return "\n".join(parts) + "\n"


def _panel(samples: Samples, name: str) -> str:
    title, unit = PANELS[name]
    shown = [program for program in samples.programs if samples.of(program, name)]
    most = max(max(samples.of(program, name)) for program in shown) or 1.0
    parts = [
        f'<text y="14" font-weight="600">{escape(title)}</text>',
        f'<text y="30" font-size="11" fill="#57606a">{escape(unit)}</text>',
    ]
    parts += [_bar(samples, program, name, BAR / most, 40 + ROW * at) for at, program in enumerate(shown)]
    return "\n".join(parts)


def _bar(samples: Samples, program: str, name: str, scale: float, y: int) -> str:
    found, median = samples.of(program, name), samples.median(program, name) or 0.0
    colour = OURS if program == "proxyvpn" else YARDSTICKS if program in NAMES else OTHERS
    low, high, end = (LABEL + scale * value for value in (min(found), max(found), median))
    weight = ' font-weight="600"' if program == "proxyvpn" else ""
    label = escape(NAMES.get(program, program))
    return "\n".join(
        [
            f'<text x="{LABEL - 8}" y="{y + 13}" text-anchor="end"{weight}>{label}</text>',
            f'<rect x="{LABEL}" y="{y + 1}" width="{end - LABEL:.1f}" height="{ROW - 6}" fill="{colour}"/>',
            f'<path d="M{low:.1f} {y + 9}H{high:.1f}" stroke="#1b1f24" stroke-width="1"/>',
            f'<text x="{max(high, end) + 6:.1f}" y="{y + 13}"{weight}>{number(median)}</text>',
        ]
    )
