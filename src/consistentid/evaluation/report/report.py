"""A benchmark as one HTML page that opens offline, as Markdown, as JSON and as a table of every picture."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from consistentid.evaluation.benchmark import MEASURES, Benchmark, Scored
from consistentid.evaluation.manifest import Row
from consistentid.evaluation.metrics import Estimate
from consistentid.evaluation.report import charts
from consistentid.evaluation.report.page import families, page, point
from consistentid.faces.parts import PARTS
from consistentid.files.output import encode_json
from consistentid.files.writing import write_whole

Differences = Mapping[str, Mapping[str, Estimate]]
"""Method -> measure -> how much higher it scores than the first method."""

_PARTS = tuple(f"fgis_{part}" for part in PARTS)
_COMPARED = ("face_sim", "sim_gt", "accepted_1", "fgis", *_PARTS, "clip_t", "adherence")


@dataclass(frozen=True)
class About:
    """What a report says beside the scores.

    Attributes:
        title: of the page.
        facts: name -> what was measured, with which settings and versions.
        labels: method -> a few words.
        curves: name of an ablation -> (what is varied, value -> method).
        sheets: what it shows -> a picture, such as attention maps.
        refused: one line for each reference that was refused.
    """

    title: str
    facts: Mapping[str, Any]
    labels: Mapping[str, str] = field(default_factory=dict)
    curves: Mapping[str, tuple[str, Mapping[str, str]]] = field(default_factory=dict)
    sheets: Mapping[str, Path] = field(default_factory=dict)
    refused: Sequence[str] = ()


REPORT_FILES = ("report.json", "report.md", "report.html", "scores.csv", "charts")
"""What `write_report` makes in a folder."""


def write_report(folder: Path, benchmark: Benchmark, about: About) -> dict[str, Any]:
    """Write report.html, report.md, report.json, scores.csv and charts/; return what is in the JSON.

    Raises:
        InputError: the folder cannot be written to.
    """
    differences = _differences(benchmark)
    data = as_data(benchmark, about, differences)
    tables, curves = _tables(benchmark, about, differences), _curves(benchmark, about)
    facts = {**about.facts, **_rulers(benchmark)}
    marks = [*benchmark.marks, *(f"refused: {line}" for line in about.refused)]
    for name, content in (
        ("report.json", encode_json(data)),
        ("report.md", markdown(benchmark, about, tables).encode()),
        ("report.html", page(benchmark, about.title, facts, marks, about.sheets, tables, [*curves.values()]).encode()),
        ("scores.csv", _every_score(benchmark, folder).encode()),
        *((f"charts/{name}.svg", charts.standalone(chart).encode()) for name, chart in curves.items()),
    ):
        write_whole(folder / name, content)
    return data


def as_data(benchmark: Benchmark, about: About, differences: Differences) -> dict[str, Any]:
    """The whole benchmark as plain values: cosines and shares from -1 to 1, not times 100; NaN where not measured."""

    def scores(scored: Scored) -> dict[str, Any]:
        measured = {key: asdict(e) for key, e in scored.scores.items() if e.pictures}
        return {"scores": measured, "asked": {factor: asdict(e) for factor, e in scored.hits.items()}}

    def method(name: str, scored: Scored) -> dict[str, Any]:
        positions = {key: benchmark.position(name, key) for key, e in scored.scores.items() if e.pictures}
        groups = {
            group: {key: asdict(scored.of_group(key, group)) for key in scored.each if scored.scores[key].pictures}
            for group in _groups(scored.rows)
        }
        made = sum(row.picture is not None for row in scored.rows)
        about_it = {"about": about.labels.get(name, ""), "pictures": len(scored.rows), "made": made}
        return {**about_it, **scores(scored), "between_random_and_real": positions, "by_group": groups}

    return {
        "title": about.title,
        "about": dict(about.facts),
        "encoders": dict(benchmark.encoders),
        "marks": list(benchmark.marks),
        "refused": list(about.refused),
        "thresholds": {f"FAR {far:g}": value for far, value in benchmark.thresholds.items()},
        "methods": {name: method(name, scored) for name, scored in benchmark.methods.items()},
        "real": scores(benchmark.real),
        "random": scores(benchmark.random),
        "differences": {name: {key: asdict(e) for key, e in found.items()} for name, found in differences.items()},
        "separation": dict(benchmark.separation),
        "curves": {name: {"of": of, "methods": dict(points)} for name, (of, points) in about.curves.items()},
    }


# ------------------------------------------------------------------------------------------------------------- tables


@dataclass(frozen=True)
class _Table:
    title: str
    note: str
    head: Sequence[str]
    body: Sequence[Sequence[str]]


def _tables(benchmark: Benchmark, about: About, differences: Differences) -> list[_Table]:
    """Every table of the report, as text."""
    everybody = {**benchmark.methods, "real pictures": benchmark.real, "random pairs": benchmark.random}
    measured = [key for key in MEASURES if any(s.scores[key].pictures for s in everybody.values())]
    main = [key for key in measured if key not in _PARTS]
    arrows = {1: " ↑", -1: " ↓", 0: ""}

    def heads(keys: Sequence[str]) -> list[str]:
        return [MEASURES[key].title + arrows[MEASURES[key].better] for key in keys]

    def rows(keys: Sequence[str]) -> list[list[str]]:
        return [[_label(name, about), *(show(s.scores[key], key) for key in keys)] for name, s in everybody.items()]

    tables = [
        _Table(
            "Scores",
            "Similarities and shares are times 100, with 95 % intervals over people. Real pictures of the same people"
            " are the upper bound, real pictures of somebody else for another prompt the lower one.",
            ["method", *heads(main)],
            rows(main),
        )
    ]
    parts = [key for key in _PARTS if key in measured]
    if parts:
        note = "FGIS of each part. A part that the reference shows and the picture does not counts 0."
        tables.append(_Table("Facial parts", note, ["method", *heads(["fgis", *parts])], rows(["fgis", *parts])))
    if differences:
        first = next(iter(benchmark.methods))
        keys = list(next(iter(differences.values())))
        note = (
            f"Score less that of {first} on the same person, prompt and seed, with 95 % intervals over people; one that"
            " leaves out 0 is more than chance."
        )
        body = [[_label(name, about), *(show(found[key], key) for key in keys)] for name, found in differences.items()]
        tables.append(_Table(f"Differences to {first}", note, ["method", *heads(keys)], body))
    factors = list(benchmark.real.hits or next(iter(benchmark.methods.values())).hits)
    if factors:
        body = [
            [_label(name, about), *(show(s.hits[f], "adherence") if f in s.hits else "" for f in factors)]
            for name, s in everybody.items()
        ]
        heading = [f"colour of {f.removesuffix('_color')}" if f.endswith("_color") else f for f in factors]
        note = "How often a picture shows what its prompt asks, among all values of the factor."
        tables.append(_Table("What prompts ask", note, ["method", *heading], body))
    groups = _groups([row for s in benchmark.methods.values() for row in s.rows])
    if len(groups) > 1:
        keys = [key for key in ("clip_t", "adherence", "face_sim", "fgis") if key in measured]
        head = ["method", *(f"{group}: {MEASURES[key].title}" for group in groups for key in keys)]
        body = [
            [_label(name, about), *(show(s.of_group(key, group), key) for group in groups for key in keys)]
            for name, s in benchmark.methods.items()
        ]
        tables.append(_Table("Kinds of prompts", "", head, body))
    told = [
        [MEASURES[key].title, f"{100 * value:.1f}"]
        for key, value in benchmark.separation.items()
        if not math.isnan(value)
    ]
    if told:
        note = (
            "How often, in per cent, a real picture of the person is more similar than one of somebody else:"
            " 100 = always, 50 = the ruler is blind."
        )
        tables.append(_Table("How good the rulers are", note, ["measure", "right"], told))
    return tables


def _differences(benchmark: Benchmark) -> Differences:
    first, *others = benchmark.methods
    keys = [key for key in _COMPARED if benchmark.methods[first].scores[key].pictures]
    found = {name: {key: benchmark.difference(name, first, key) for key in keys} for name in others}
    return {name: each for name, each in found.items() if any(e.pictures for e in each.values())}


def show(score: Estimate, key: str) -> str:
    """A score for people: ``12.3 [11.0, 13.6]``; empty where nothing was measured."""
    if not score.pictures:
        return ""
    factor = MEASURES[key].factor
    digits = 1 if factor == 100 or key in ("seconds", "memory_mb") else 3
    value, low, high = (f"{factor * x:.{digits}f}" for x in (score.value, score.low, score.high))
    return value if math.isnan(score.low) or score.low == score.high == score.value else f"{value} [{low}, {high}]"


def markdown(benchmark: Benchmark, about: About, tables: Sequence[_Table]) -> str:
    """The tables and facts of a report."""
    lines = [f"# {about.title}", ""]
    lines += [f"- {name}: {value}" for name, value in {**about.facts, **_rulers(benchmark)}.items()]
    lines += [f"- **Read with care**: {mark}" for mark in benchmark.marks]
    lines += [f"- Refused: {line}" for line in about.refused]
    for table in tables:
        lines += ["", f"## {table.title}", ""]
        lines += [table.note, ""] if table.note else []
        lines += [_md_row(table.head), _md_row(["---"] * len(table.head)), *map(_md_row, table.body)]
    return "\n".join([*lines, ""])


def _md_row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _every_score(benchmark: Benchmark, folder: Path) -> str:
    stream = io.StringIO()
    writer = csv.writer(stream)
    keys = list(next(iter(benchmark.methods.values())).each)
    writer.writerow(["method", "identity", "prompt", "seed", "picture", *keys])
    for scored in benchmark.methods.values():
        for number, row in enumerate(scored.rows):
            path = "" if row.picture is None else _short(row.picture, folder)
            values = [scored.each[key][number] for key in keys]
            shown = ["" if math.isnan(value) else f"{value:.4f}" for value in values]
            writer.writerow([row.method, row.identity, row.prompt, row.seed, path, *shown])
    return stream.getvalue()


def _short(path: Path, folder: Path) -> str:
    return path.relative_to(folder).as_posix() if path.is_relative_to(folder) else str(path)


def _groups(rows: Sequence[Row]) -> list[str]:
    return [group for group in dict.fromkeys(row.group for row in rows) if group]


def _label(name: str, about: About) -> str:
    return f"{name}: {about.labels[name]}" if about.labels.get(name) else name


def _rulers(benchmark: Benchmark) -> dict[str, str]:
    limits = {
        f"accepted at FAR {far:.1%}": f"cosine above {value:.3f}"
        for far, value in benchmark.thresholds.items()
        if not math.isnan(value)
    }
    return {**benchmark.encoders, **limits}


# ------------------------------------------------------------------------------------------------------------- curves


def _curves(benchmark: Benchmark, about: About) -> dict[str, str]:
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
