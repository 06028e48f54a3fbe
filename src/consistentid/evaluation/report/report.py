"""A benchmark as one HTML page that opens offline, as Markdown, as JSON and as a table of every picture."""

from __future__ import annotations

import csv
import io
import math
from dataclasses import asdict
from pathlib import Path
from typing import Any

from consistentid.evaluation.benchmark import Benchmark, Scored
from consistentid.evaluation.report import charts
from consistentid.evaluation.report.curves import curves_of
from consistentid.evaluation.report.page import page
from consistentid.evaluation.report.tables import (
    About,
    Differences,
    differences_to_first,
    groups_of,
    markdown,
    rulers,
    tables_of,
)
from consistentid.files.output import encode_json
from consistentid.files.writing import write_whole

REPORT_FILES = ("report.json", "report.md", "report.html", "scores.csv", "charts")
"""What `write_report` makes in a folder."""


def write_report(folder: Path, benchmark: Benchmark, about: About) -> dict[str, Any]:
    """Write report.html, report.md, report.json, scores.csv and charts/; return what is in the JSON.

    Raises:
        InputError: the folder cannot be written to.
    """
    differences = differences_to_first(benchmark)
    data = as_data(benchmark, about, differences)
    tables, curves = tables_of(benchmark, about, differences), curves_of(benchmark, about)
    facts = {**about.facts, **rulers(benchmark)}
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
            for group in groups_of(scored.rows)
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
