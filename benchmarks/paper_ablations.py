"""The paper's ablations, redone on drawings: does every row point the same way?

    recipes/baselines/run.sh runs/one 60 4                                   # trains, draws and scores; hours on a CPU
    recipes/baselines/run.sh runs/two 60 4 --set adapter.schedule.seed=4    # once more, with other luck in training
    python benchmarks/paper_ablations.py runs/one runs/two

For each row of the paper's table the weights with a part of the method are compared with those without it, on the same
person, prompt and seed. Prints Markdown: what the paper found, the gain in each run with a 95 % interval over people,
and whether that confirms the paper's direction: yes or no where the intervals of all runs leave out 0 on one side, else
undecided.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Sequence
from pathlib import Path

import click
import numpy as np

from consistentid.evaluation.metrics import Estimate, estimate

ROWS = (
    ("parts and overall ID, against overall ID only", "full", "id_clip", 85.6 - 84.2),
    ("parts and overall ID, against parts only", "full", "parts_only", 85.6 - 85.4),
    ("localisation loss, against none", "full", "without_localisation", 85.6 - 82.9),
    ("ID projection trained, against frozen", "full", "frozen_projection", 85.6 - 82.9),
    ("captions of the facial parts, against none", "true_captions", "fixed_captions", 85.8 - 84.9),
)
"""What is gained, method with it, method without it, and the gain in FGIS that the paper prints."""

MEASURES = {"fgis": "FGIS", "face_sim": "FaceSim", "adherence": "Adherence"}

Scores = dict[str, dict[tuple[str, ...], dict[str, float]]]


def read_scores(file: Path) -> Scores:
    """Method -> (person, prompt, seed) -> measure -> score, of a report's scores.csv; NaN where not measured."""
    scores: Scores = {}
    with file.open(newline="", encoding="utf-8") as stream:
        for row in csv.DictReader(stream):
            task = row["identity"], row["prompt"], row["seed"]
            scores.setdefault(row["method"], {})[task] = {key: float(row[key] or math.nan) for key in MEASURES}
    return scores


def gain(scores: Scores, ours: str, theirs: str, key: str) -> Estimate:
    """How much higher one method scores than another on the same tasks, times 100."""
    tasks = [task for task in scores[ours] if task in scores[theirs]]
    each = np.array([100 * (scores[ours][task][key] - scores[theirs][task][key]) for task in tasks])
    return estimate(each, np.array([person for person, *_ in tasks]))


def verdict(gains: Sequence[Estimate], expected: float) -> str:
    """Whether the gains of all runs point where the paper's does."""
    signs = {0 if e.low <= 0 <= e.high else math.copysign(1, e.value) for e in gains}
    if signs == {math.copysign(1, expected)}:
        return "**yes**"
    return "**no**" if signs == {-math.copysign(1, expected)} else "undecided"


@click.command()
@click.argument("runs", nargs=-1, required=True, type=click.Path(exists=True, file_okay=False, path_type=Path))
def main(runs: tuple[Path, ...]) -> None:
    """The table of RUNS, folders that recipes/baselines/run.sh has filled."""
    every = [read_scores(run / "report" / "scores.csv") for run in runs]
    gains = " | ".join(f"{title} here" for title in MEASURES.values())
    click.echo(f"| what is added | FGIS in the paper | {gains} | paper's direction confirmed |")
    click.echo("|---" * (3 + len(MEASURES)) + "|")
    for what, ours, theirs, expected in ROWS:
        known = [scores for scores in every if {ours, theirs} <= scores.keys()]
        found = {key: [gain(scores, ours, theirs, key) for scores in known] for key in MEASURES}
        cells = ["<br>".join(f"{e.value:+.1f} [{e.low:+.1f}, {e.high:+.1f}]" for e in each) for each in found.values()]
        click.echo(f"| {what} | {expected:+.1f} | {' | '.join(cells)} | {verdict(found['fgis'], expected)} |")


if __name__ == "__main__":
    main()
