"""A benchmark as one HTML page that opens offline."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup

from consistentid.evaluation.benchmark import MEASURES, Benchmark, Scored
from consistentid.evaluation.metrics import Estimate
from consistentid.evaluation.report import charts
from consistentid.evaluation.report.tables import Table
from consistentid.files.images import load_image
from consistentid.pages.render import inline_picture, render

_TRACKS = ("face_sim", "sim_gt", "accepted_1", "fgis", "clip_t", "adherence")
_THUMBNAIL, _SHEET = 128, 1200
_SHOWN_METHODS, _SHOWN_PEOPLE, _SHOWN_PROMPTS, _SHOWN_CASES = 10, 4, 8, 6


def page(
    benchmark: Benchmark,
    title: str,
    facts: Mapping[str, Any],
    marks: Sequence[str],
    sheets: Mapping[str, Path],
    tables: Sequence[Table],
    curves: Sequence[str],
) -> str:
    """One HTML page with everything in it; nothing is loaded from anywhere.

    Args:
        benchmark: what was measured.
        title, facts, marks, sheets: see `report.About`.
        tables: with "title", "note", "head" and "body".
        curves: charts, as SVG.
    """
    used = [key for key, e in next(iter(benchmark.methods.values())).scores.items() if e.pictures]
    return render(
        "report.html",
        title=title,
        facts=facts,
        marks=marks,
        tables=tables,
        tracks=[Markup(chart) for chart in _tracks(benchmark)],
        curves=[Markup(chart) for chart in curves],
        side_by_side=_side_by_side(benchmark),
        cases=_cases(benchmark),
        sheets={name: inline_picture(load_image(path), _SHEET) for name, path in sheets.items()},
        definitions={MEASURES[key].title: MEASURES[key].about for key in used},
        chart_style=Markup(charts.STYLE),
    )


def _tracks(benchmark: Benchmark) -> list[str]:
    tracks = []
    for key in _TRACKS:
        points = [point(name, s.scores[key], key) for name, s in _first(benchmark.methods).items()]
        lower, upper = (MEASURES[key].factor * b.scores[key].value for b in (benchmark.random, benchmark.real))
        tracks.append(charts.track(MEASURES[key].title, points, lower, upper))
    return [chart for chart in tracks if chart]


def _side_by_side(benchmark: Benchmark) -> list[dict[str, Any]]:
    """For each person shown: the reference, the prompts, and for each method its name and a picture of each prompt."""
    methods = _first(benchmark.methods)
    rows = {(m, r.identity, r.prompt): r for m, s in methods.items() for r in s.rows if r.seed == s.rows[0].seed}
    first = next(iter(methods.values())).rows
    people = list(dict.fromkeys(row.identity for row in first))[:_SHOWN_PEOPLE]
    prompts = list(dict.fromkeys(row.prompt for row in first))[:_SHOWN_PROMPTS]
    real = {(row.identity, row.prompt): row.picture for row in benchmark.real.rows if row.prompt}
    shown = []
    for person in people:
        lines = []
        if any((person, prompt) in real for prompt in prompts):
            lines.append(("real", [_picture(real.get((person, prompt))) for prompt in prompts]))
        for method in methods:
            chosen = [rows.get((method, person, prompt)) for prompt in prompts]
            lines.append((method, [_picture(row.picture if row else None) for row in chosen]))
        reference = next(row.reference for row in first if row.identity == person)
        shown.append({"reference": _picture(reference), "prompts": prompts, "lines": lines})
    return shown


def _cases(benchmark: Benchmark) -> dict[str, list[dict[str, str]]]:
    """The best and the worst pictures of the first method."""
    scored = next(iter(benchmark.methods.values()))
    values = scored.each["face_sim"]
    order = sorted((i for i in range(len(values)) if not math.isnan(values[i])), key=lambda i: -values[i])
    if len(order) < 2:
        return {}
    half = min(_SHOWN_CASES, len(order) // 2)
    return {
        title: [
            {
                "reference": _picture(scored.rows[i].reference),
                "picture": _picture(scored.rows[i].picture),
                "score": f"{100 * values[i]:.1f}",
                "prompt": scored.rows[i].prompt,
            }
            for i in chosen
        ]
        for title, chosen in (("Best", order[:half]), ("Worst", order[::-1][:half]))
    }


def _picture(path: Path | None) -> str:
    """A data address; empty where there is no picture."""
    return "" if path is None else inline_picture(load_image(path), _THUMBNAIL)


def point(name: str, score: Estimate, key: str) -> charts.Point:
    """A score as a point of a chart, in the units of the tables."""
    factor = MEASURES[key].factor
    return charts.Point(name, factor * score.value, factor * score.low, factor * score.high)


def _first(methods: Mapping[str, Scored]) -> dict[str, Scored]:
    """The methods that are shown as pictures; of those on one curve the first."""
    first = [members[0][1] for members in families(methods).values()]
    return {name: methods[name] for name in first[:_SHOWN_METHODS]}


def families(methods: Iterable[str]) -> dict[str, list[tuple[str, str]]]:
    """Name up to an "@" -> (what follows it, method) of all methods of that name, which lie on one curve."""
    families: dict[str, list[tuple[str, str]]] = {}
    for method in methods:
        family, _, change = method.partition("@")
        families.setdefault(family, []).append((change, method))
    return families
