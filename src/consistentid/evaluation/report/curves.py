"""Likeness against the prompt, as curves."""

from __future__ import annotations

from consistentid.evaluation.benchmark import MEASURES, Benchmark, Scored
from consistentid.evaluation.report import charts
from consistentid.evaluation.report.page import families, point
from consistentid.evaluation.report.tables import About


def curves_of(benchmark: Benchmark, about: About) -> dict[str, str]:
    """Likeness against the prompt: a line for each ablation, or all methods, those alike up to an "@" on one line."""
    x = "adherence" if benchmark.real.scores["adherence"].pictures else "clip_t"
    plans = {f"-{name}": (f" over {of}", {name: [*points.items()]}) for name, (of, points) in about.curves.items()}
    if len(benchmark.methods) > 1 and not plans:
        grouped = {
            family: [(change or family, method) for change, method in members]
            for family, members in families(benchmark.methods).items()
        }
        for points in grouped.values():
            points.sort(key=lambda point: benchmark.methods[point[1]].scores[x].value)
        plans[""] = "", grouped
    drawn = {}
    for name, (end, lines) in plans.items():
        for y in ("face_sim", "fgis"):
            pairs = {
                line: [pair for label, method in points if (pair := _pair(label, benchmark.methods[method], x, y))]
                for line, points in lines.items()
            }
            titles = MEASURES[y].title + end, MEASURES[x].title, MEASURES[y].title
            if chart := charts.curve(*titles, {line: found for line, found in pairs.items() if found}):
                drawn[y + name] = chart
    return drawn


def _pair(name: str, scored: Scored, x: str, y: str) -> tuple[charts.Point, charts.Point] | None:
    if not (scored.scores[x].pictures and scored.scores[y].pictures):
        return None
    return point(name, scored.scores[x], x), point(name, scored.scores[y], y)
