"""The tables of a report as text, and as Markdown."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from consistentid.evaluation.benchmark import MEASURES, Benchmark
from consistentid.evaluation.manifest import Row
from consistentid.evaluation.metrics import Estimate
from consistentid.faces.parts import PARTS

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


@dataclass(frozen=True)
class Table:
    """One table: its title, a note on how to read it, the head, and rows of cells."""

    title: str
    note: str
    head: Sequence[str]
    body: Sequence[Sequence[str]]


def tables_of(benchmark: Benchmark, about: About, differences: Differences) -> list[Table]:
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
        Table(
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
        tables.append(Table("Facial parts", note, ["method", *heads(["fgis", *parts])], rows(["fgis", *parts])))
    if differences:
        first = next(iter(benchmark.methods))
        keys = list(next(iter(differences.values())))
        note = (
            f"Score less that of {first} on the same person, prompt and seed, with 95 % intervals over people; one that"
            " leaves out 0 is more than chance."
        )
        body = [[_label(name, about), *(show(found[key], key) for key in keys)] for name, found in differences.items()]
        tables.append(Table(f"Differences to {first}", note, ["method", *heads(keys)], body))
    factors = list(benchmark.real.hits or next(iter(benchmark.methods.values())).hits)
    if factors:
        body = [
            [_label(name, about), *(show(s.hits[f], "adherence") if f in s.hits else "" for f in factors)]
            for name, s in everybody.items()
        ]
        heading = [f"colour of {f.removesuffix('_color')}" if f.endswith("_color") else f for f in factors]
        note = "How often a picture shows what its prompt asks, among all values of the factor."
        tables.append(Table("What prompts ask", note, ["method", *heading], body))
    groups = groups_of([row for s in benchmark.methods.values() for row in s.rows])
    if len(groups) > 1:
        keys = [key for key in ("clip_t", "adherence", "face_sim", "fgis") if key in measured]
        head = ["method", *(f"{group}: {MEASURES[key].title}" for group in groups for key in keys)]
        body = [
            [_label(name, about), *(show(s.of_group(key, group), key) for group in groups for key in keys)]
            for name, s in benchmark.methods.items()
        ]
        tables.append(Table("Kinds of prompts", "", head, body))
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
        tables.append(Table("How good the rulers are", note, ["measure", "right"], told))
    return tables


def differences_to_first(benchmark: Benchmark) -> Differences:
    """Differences of the other methods, in the measures that are worth comparing."""
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


def markdown(benchmark: Benchmark, about: About, tables: Sequence[Table]) -> str:
    """The tables and facts of a report."""
    lines = [f"# {about.title}", ""]
    lines += [f"- {name}: {value}" for name, value in {**about.facts, **rulers(benchmark)}.items()]
    lines += [f"- **Read with care**: {mark}" for mark in benchmark.marks]
    lines += [f"- Refused: {line}" for line in about.refused]
    for table in tables:
        lines += ["", f"## {table.title}", ""]
        lines += [table.note, ""] if table.note else []
        lines += [_md_row(table.head), _md_row(["---"] * len(table.head)), *map(_md_row, table.body)]
    return "\n".join([*lines, ""])


def _md_row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def groups_of(rows: Sequence[Row]) -> list[str]:
    """Kinds of prompts, in the order in which they come."""
    return [group for group in dict.fromkeys(row.group for row in rows) if group]


def _label(name: str, about: About) -> str:
    return f"{name}: {about.labels[name]}" if about.labels.get(name) else name


def rulers(benchmark: Benchmark) -> dict[str, str]:
    """What measured: name -> the network, or the threshold."""
    limits = {
        f"accepted at FAR {far:.1%}": f"cosine above {value:.3f}"
        for far, value in benchmark.thresholds.items()
        if not math.isnan(value)
    }
    return {**benchmark.encoders, **limits}
