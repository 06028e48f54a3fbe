"""A benchmark as one HTML page that opens offline, as Markdown, as JSON and as a table of every picture."""

from __future__ import annotations

import base64
import csv
import io
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from html import escape
from pathlib import Path
from typing import Any

from PIL import Image

from consistentid.evaluation.benchmark import MEASURES, Benchmark, Scored
from consistentid.evaluation.manifest import Row
from consistentid.evaluation.metrics import Estimate
from consistentid.evaluation.report import charts
from consistentid.faces.parts import PARTS
from consistentid.files.images import load_image
from consistentid.files.output import encode_json, replacing

Differences = Mapping[str, Mapping[str, Estimate]]
"""Method -> measure -> how much higher it scores than the first method."""

_PARTS = tuple(f"fgis_{part}" for part in PARTS)
_TRACKS = ("face_sim", "sim_gt", "accepted_1", "fgis", "clip_t", "adherence")
_THUMBNAIL = 128
_COMPARED = ("face_sim", "sim_gt", "accepted_1", "fgis", *_PARTS, "clip_t", "adherence")
_SHOWN_METHODS, _SHOWN_PEOPLE, _SHOWN_PROMPTS, _SHOWN_CASES = 10, 4, 8, 6


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


def write_report(folder: Path, benchmark: Benchmark, about: About) -> dict[str, Any]:
    """Write report.html, report.md, report.json, scores.csv and charts/; return what is in the JSON.

    Raises:
        InputError: the folder cannot be written to.
    """
    differences = _differences(benchmark)
    data = as_data(benchmark, about, differences)
    tables, curves = _tables(benchmark, about, differences), _curves(benchmark, about)
    for name, content in (
        ("report.json", encode_json(data)),
        ("report.md", markdown(benchmark, about, tables).encode()),
        ("report.html", page(benchmark, about, tables, curves).encode()),
        ("scores.csv", _every_score(benchmark, folder).encode()),
        *((f"charts/{name}.svg", charts.standalone(chart).encode()) for name, chart in curves.items()),
    ):
        with replacing(folder / name) as temporary:
            temporary.write_bytes(content)
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


# --------------------------------------------------------------------------------------------------------------- page


def page(benchmark: Benchmark, about: About, tables: Sequence[_Table], curves: Mapping[str, str]) -> str:
    """One HTML page with everything in it; nothing is loaded from anywhere."""
    sections = [
        _header(benchmark, about),
        _section("In one look", _tracks(benchmark)),
        *(_section(t.title, _html_table(t), note=t.note) for t in tables[:2]),
        _section("Likeness against the prompt", *(f"<div class='chart'>{chart}</div>" for chart in curves.values())),
        _section("Side by side", *_side_by_side(benchmark), note="Same person, same prompt and same seed in a column."),
        _section("Best and worst", *_cases(benchmark), note="By FaceSim; the reference stands left of each picture."),
        _section(
            "Where facial words look",
            *(f"<figure><img src='{_inline(path, 1200)}' alt=''><figcaption>{escape(name)}</figcaption></figure>"
              for name, path in about.sheets.items()),
            note="Text cross-attention of each facial word after the merge, over the picture that came of it.",
        ),
        *(_section(t.title, _html_table(t), note=t.note) for t in tables[2:]),
        _section("How it was measured", _definitions(benchmark)),
    ]  # fmt: skip
    return (
        "<!doctype html><html lang='en'><head><meta charset='utf-8'>"
        "<meta name='viewport' content='width=device-width, initial-scale=1'>"
        f"<title>{escape(about.title)}</title><style>{_STYLE}{charts.STYLE}</style></head><body><main>"
        f"{''.join(sections)}</main></body></html>\n"
    )


def _section(title: str, *content: str, note: str = "") -> str:
    if not any(content):
        return ""
    told = f"<p class='note'>{escape(note)}</p>" if note else ""
    return f"<section><h2>{escape(title)}</h2>{told}{''.join(content)}</section>"


def _header(benchmark: Benchmark, about: About) -> str:
    facts = "".join(
        f"<dt>{escape(str(k))}</dt><dd>{escape(str(v))}</dd>" for k, v in {**about.facts, **_rulers(benchmark)}.items()
    )
    warnings = [*benchmark.marks, *(f"refused: {line}" for line in about.refused)]
    marks = "".join(f"<p class='mark'>Read with care: {escape(mark)}</p>" for mark in warnings)
    return f"<header><h1>{escape(about.title)}</h1><dl>{facts}</dl>{marks}</header>"


def _tracks(benchmark: Benchmark) -> str:
    tracks = []
    for key in _TRACKS:
        points = [_point(name, s.scores[key], key) for name, s in _first(benchmark.methods).items()]
        lower, upper = (MEASURES[key].factor * b.scores[key].value for b in (benchmark.random, benchmark.real))
        tracks.append(charts.track(MEASURES[key].title, points, lower, upper))
    return "".join(f"<div>{chart}</div>" for chart in tracks if chart)


def _curves(benchmark: Benchmark, about: About) -> dict[str, str]:
    """Likeness against the prompt: a line for each ablation, or all methods, those alike up to an "@" on one line."""
    x = "adherence" if benchmark.real.scores["adherence"].pictures else "clip_t"
    plans = {f"-{name}": (f" over {of}", {name: [*points.items()]}) for name, (of, points) in about.curves.items()}
    if len(benchmark.methods) > 1 and not plans:
        families = {
            family: [(change or family, method) for change, method in members]
            for family, members in _families(benchmark.methods).items()
        }
        for points in families.values():
            points.sort(key=lambda point: benchmark.methods[point[1]].scores[x].value)
        plans[""] = "", families
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
    return _point(name, scored.scores[x], x), _point(name, scored.scores[y], y)


def _side_by_side(benchmark: Benchmark) -> list[str]:
    methods = _first(benchmark.methods)
    rows = {(m, r.identity, r.prompt): r for m, s in methods.items() for r in s.rows if r.seed == s.rows[0].seed}
    first = next(iter(methods.values())).rows
    people = list(dict.fromkeys(row.identity for row in first))[:_SHOWN_PEOPLE]
    prompts = list(dict.fromkeys(row.prompt for row in first))[:_SHOWN_PROMPTS]
    real = {(row.identity, row.prompt): row.picture for row in benchmark.real.rows if row.prompt}
    out = []
    for person in people:
        reference = next(row.reference for row in first if row.identity == person)
        head = "".join(f"<th>{escape(prompt)}</th>" for prompt in prompts)
        lines = []
        if any((person, prompt) in real for prompt in prompts):
            cells = "".join(f"<td>{_picture(real.get((person, prompt)))}</td>" for prompt in prompts)
            lines.append(f"<tr><th>real</th>{cells}</tr>")
        for method in methods:
            chosen = [rows.get((method, person, prompt)) for prompt in prompts]
            cells = "".join(f"<td>{_picture(row.picture if row else None)}</td>" for row in chosen)
            lines.append(f"<tr><th>{escape(method)}</th>{cells}</tr>")
        out.append(
            f"<div class='scroll'><table class='pictures'><tr><td>{_picture(reference)}<br>reference"
            f"</td>{head}</tr>{''.join(lines)}</table></div>"
        )
    return out


def _cases(benchmark: Benchmark) -> list[str]:
    scored = next(iter(benchmark.methods.values()))
    values = scored.each["face_sim"]
    order = sorted((i for i in range(len(values)) if not math.isnan(values[i])), key=lambda i: -values[i])
    if len(order) < 2:
        return []
    half = min(_SHOWN_CASES, len(order) // 2)
    out = []
    for title, chosen in (("Best", order[:half]), ("Worst", order[::-1][:half])):
        cards = "".join(
            f"<figure>{_picture(scored.rows[i].reference)}{_picture(scored.rows[i].picture)}<figcaption>"
            f"FaceSim {100 * values[i]:.1f}<br>{escape(scored.rows[i].prompt)}</figcaption></figure>"
            for i in chosen
        )
        out.append(f"<h3>{title}</h3><div class='cards'>{cards}</div>")
    return out


def _definitions(benchmark: Benchmark) -> str:
    used = [key for key, e in next(iter(benchmark.methods.values())).scores.items() if e.pictures]
    items = "".join(f"<dt>{escape(MEASURES[k].title)}</dt><dd>{escape(MEASURES[k].about)}</dd>" for k in used)
    return f"<dl>{items}</dl><p class='note'>Every decision behind them is written down in docs/evaluation.md.</p>"


def _html_table(table: _Table) -> str:
    def cell(text: str) -> str:
        value, bracket, interval = text.partition(" [")
        small = f"<small>{escape(bracket.strip() + interval)}</small>" if bracket else ""
        return f"<td>{escape(value)}{small}</td>"

    head = "".join(f"<th>{escape(name)}</th>" for name in table.head)
    body = "".join(f"<tr><th>{escape(row[0])}</th>{''.join(cell(text) for text in row[1:])}</tr>" for row in table.body)
    return f"<div class='scroll'><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"


def _picture(path: Path | None) -> str:
    if path is None:
        return "<span class='none'>none</span>"
    return f"<img src='{_inline(path, _THUMBNAIL)}' loading='lazy' alt=''>"


def _inline(path: Path, side: int) -> str:
    """A picture as a data address, not larger than needed."""
    image = load_image(path)
    image.thumbnail((side, side), Image.Resampling.LANCZOS)
    stream = io.BytesIO()
    image.save(stream, "WEBP", quality=88)
    return "data:image/webp;base64," + base64.b64encode(stream.getvalue()).decode()


def _point(name: str, score: Estimate, key: str) -> charts.Point:
    factor = MEASURES[key].factor
    return charts.Point(name, factor * score.value, factor * score.low, factor * score.high)


def _first(methods: Mapping[str, Scored]) -> dict[str, Scored]:
    """The methods that are shown as pictures; of those on one curve the first."""
    first = [members[0][1] for members in _families(methods).values()]
    return {name: methods[name] for name in first[:_SHOWN_METHODS]}


def _families(methods: Iterable[str]) -> dict[str, list[tuple[str, str]]]:
    """Name up to an "@" -> (what follows it, method) of all methods of that name, which lie on one curve."""
    families: dict[str, list[tuple[str, str]]] = {}
    for method in methods:
        family, _, change = method.partition("@")
        families.setdefault(family, []).append((change, method))
    return families


_STYLE = """
:root{--ink:#1d2228;--soft:#66707c;--line:#dfe3e8;--wash:#f6f7f9}
*{box-sizing:border-box}
body{margin:0;font:15px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,sans-serif;color:var(--ink);background:#fff}
main{max-width:1180px;margin:0 auto;padding:32px 24px 96px}
h1{font-size:27px;margin:0 0 14px;letter-spacing:-.01em}
h2{font-size:19px;margin:44px 0 6px;border-top:1px solid var(--line);padding-top:22px}
h3{font-size:15px;margin:18px 0 6px}
.note{color:var(--soft);margin:0 0 12px;max-width:80ch}
.mark{background:#fff6e0;border-left:4px solid #d99a1b;padding:8px 12px;margin:8px 0}
dl{display:grid;grid-template-columns:max-content 1fr;gap:2px 18px;margin:0 0 12px}
dt{color:var(--soft)} dd{margin:0;overflow-wrap:anywhere}
.scroll{overflow-x:auto;margin:0 0 16px}
table{border-collapse:collapse;font-variant-numeric:tabular-nums}
th,td{padding:6px 10px;text-align:right;border-bottom:1px solid var(--line);white-space:nowrap}
th:first-child{text-align:left;font-weight:600} thead th{color:var(--soft);font-weight:600;vertical-align:bottom}
td small{display:block;color:var(--soft);font-size:11.5px}
table.pictures th,table.pictures td{text-align:center;padding:4px;border:0;white-space:normal;font-size:12px}
table.pictures td{width:120px}
table.pictures{margin-top:14px}
img{width:112px;border-radius:4px;display:block;margin:0 auto}
figure{margin:0 0 12px} figure>img{display:inline-block} figcaption{font-size:12px;color:var(--soft)}
section>figure>img{width:100%;max-width:1000px}
.cards{display:flex;flex-wrap:wrap;gap:14px} .cards figure{width:232px}
.none{display:inline-block;width:112px;padding:44px 0;background:var(--wash);color:var(--soft);border-radius:4px}
.chart{display:inline-block;margin:6px 18px 6px 0}
@media print{section{break-inside:avoid}}
"""
