"""Small charts as SVG text, for a page that needs nothing else."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

COLORS = ("#1a6fb0", "#d1495b", "#3f8f4f", "#b07d1a", "#7a4fa3", "#4a4a4a", "#12908e", "#b0527f")
"""Of methods, in their order."""

_LEGEND = 150
_BACKGROUND = '<rect width="100%" height="100%" fill="#fff"/>'

STYLE = """
svg{font-family:system-ui,-apple-system,"Segoe UI",Roboto,sans-serif;max-width:100%;height:auto}
svg .t{font-size:13.5px;font-weight:600;fill:#1d2228} svg .s{font-size:11px;fill:#66707c}
svg .m{text-anchor:middle} svg .e{text-anchor:end}
svg .axis{stroke:#b8c0c9;stroke-width:1.5} svg .bound{stroke:#b8c0c9;stroke-dasharray:3 3}
svg .grid{stroke:#eceff2} svg .whisker{stroke-width:1.6;opacity:.55}
"""
"""CSS of all charts, for the page that holds them."""


@dataclass(frozen=True)
class Point:
    """A value with its interval, named."""

    name: str
    value: float
    low: float
    high: float


def track(title: str, points: Sequence[Point], lower: float, upper: float, width: int = 760) -> str:
    """Values between two bounds: a line from "random" to "real", a dot with whiskers on it for each point."""
    known = [p for p in points if not math.isnan(p.value)]
    if not known or math.isnan(lower) or math.isnan(upper):
        return ""
    ends = [lower, upper, *(x for p in known for x in (p.value, p.low, p.high) if not math.isnan(x))]
    scale = _Scale(min(ends), max(ends), 190, width - 160)
    height = 34 + 16 * len(known)
    out = [_open(width, height), f'<text x="0" y="20" class="t">{escape(title)}</text>']
    out.append(_line(scale(lower), 16, scale(upper), 16, "axis"))
    for value, name in ((lower, "random"), (upper, "real")):
        out.append(_line(scale(value), 10, scale(value), height - 8, "bound"))
        out.append(f'<text x="{scale(value):.1f}" y="8" class="s m">{name} {value:.3g}</text>')
    for row, (point, color) in enumerate(zip(known, _cycle(len(known)), strict=True)):
        y = 30 + 16 * row
        if not math.isnan(point.low):
            out.append(_line(scale(point.low), y, scale(point.high), y, "whisker", color))
        out.append(f'<circle cx="{scale(point.value):.1f}" cy="{y}" r="4.5" fill="{color}"/>')
        side = scale(max(point.value, point.high if not math.isnan(point.high) else point.value)) + 8
        label = f"{point.name} {point.value:.3g}" if len(known) > 1 else f"{point.value:.3g}"
        out.append(f'<text x="{side:.1f}" y="{y + 4}" class="s" fill="{color}">{escape(label)}</text>')
    return "".join([*out, "</svg>"])


Line = Sequence[tuple[Point, Point]]
"""Points (x, y) that are joined in their order."""


def curve(title: str, x_title: str, y_title: str, lines: Mapping[str, Line]) -> str:
    """Lines of points with whiskers both ways. Several have a legend, and points named like their line no name."""
    everything = [pair for line in lines.values() for pair in line]
    xs, ys = ([v for pair in everything for v in _extent(pair[axis])] for axis in (0, 1))
    if not xs or not ys:
        return ""
    legend = len(lines) > 1
    width, height = (480 + _LEGEND, 380) if legend else (480, 340)
    right = width - 24 - (_LEGEND if legend else 0)
    x, y = _Scale(min(xs), max(xs), 64, right), _Scale(min(ys), max(ys), height - 44, 34)
    out = [_open(width, height), f'<text x="0" y="14" class="t">{escape(title)}</text>']
    for tick in x.ticks():
        out.append(_line(x(tick), 34, x(tick), height - 44, "grid"))
        out.append(f'<text x="{x(tick):.1f}" y="{height - 28}" class="s m">{tick:g}</text>')
    for tick in y.ticks():
        out.append(_line(64, y(tick), right, y(tick), "grid"))
        out.append(f'<text x="58" y="{y(tick) + 4:.1f}" class="s e">{tick:g}</text>')
    out.append(f'<text x="{(64 + right) / 2}" y="{height - 8}" class="s m">{escape(x_title)} →</text>')
    out.append(f'<text transform="translate(14,{height / 2}) rotate(-90)" class="s m">{escape(y_title)} →</text>')
    for row, ((name, line), color) in enumerate(zip(lines.items(), _cycle(len(lines)), strict=True)):
        hollow = row // len(COLORS) % 2 == 1  # when the colours have gone round
        path = " ".join(f"{x(a.value):.1f},{y(b.value):.1f}" for a, b in line)
        out.append(f'<polyline points="{path}" fill="none" stroke="{color}" stroke-width="1.5"/>')
        for a, b in line:
            here = x(a.value), y(b.value)
            out.append(_line(x(a.low), here[1], x(a.high), here[1], "whisker", color))
            out.append(_line(here[0], y(b.low), here[0], y(b.high), "whisker", color))
            out.append(_mark(*here, color, hollow))
            if a.name != name or not legend:
                out.append(f'<text x="{here[0] + 7:.1f}" y="{here[1] - 6:.1f}" class="s">{escape(a.name)}</text>')
        if legend:
            out.append(_mark(right + 20, 44 + 18 * row, color, hollow))
            out.append(f'<text x="{right + 30}" y="{48 + 18 * row}" class="s">{escape(name)}</text>')
    return "".join([*out, "</svg>"])


def _mark(x: float, y: float, color: str, hollow: bool) -> str:
    """A point."""
    fill = "#fff" if hollow else color
    return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4" fill="{fill}" stroke="{color}" stroke-width="1.5"/>'


def standalone(chart: str) -> str:
    """A chart as an SVG file of its own."""
    head, end, rest = chart.partition(">")
    return f'{head} xmlns="http://www.w3.org/2000/svg"{end}<style>{STYLE}</style>{_BACKGROUND}{rest}\n'


class _Scale:
    """From values to pixels, with a little room at both ends."""

    def __init__(self, low: float, high: float, start: float, end: float) -> None:
        room = (high - low) * 0.06 or abs(high) * 0.1 or 1.0
        self._low, self._high, self._start, self._end = low - room, high + room, start, end

    def __call__(self, value: float) -> float:
        return self._start + (value - self._low) / (self._high - self._low) * (self._end - self._start)

    def ticks(self) -> list[float]:
        """About five round values."""
        raw = (self._high - self._low) / 5
        unit = 10.0 ** math.floor(math.log10(raw))
        step = next(unit * m for m in (1, 2, 5, 10) if unit * m >= raw)
        first = math.ceil(self._low / step)
        return [round(n * step, 10) for n in range(first, math.floor(self._high / step) + 1)]


def _extent(point: Point) -> list[float]:
    return [v for v in (point.value, point.low, point.high) if not math.isnan(v)]


def _cycle(count: int) -> list[str]:
    return [COLORS[i % len(COLORS)] for i in range(count)]


def _open(width: int, height: int) -> str:
    return f'<svg viewBox="0 0 {width} {height}" width="{width}" height="{height}" role="img">'


def _line(x1: float, y1: float, x2: float, y2: float, kind: str, color: str = "") -> str:
    stroke = f' stroke="{color}"' if color else ""
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" class="{kind}"{stroke}/>'
