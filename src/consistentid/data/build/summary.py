"""A page about a data set that was built, in one file: what came in, what was left out and why, how it looks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from PIL import Image

from consistentid.data.build.annotate import REASONS
from consistentid.data.dataset import read_labels
from consistentid.data.records import Record
from consistentid.errors import ConsistentIDError
from consistentid.faces.overlay import COLOURS
from consistentid.faces.parts import PARTS, part_masks
from consistentid.files.images import load_image
from consistentid.pages.render import inline_picture, render

Histogram = dict[str, int]
"""What is counted -> how many there are, in the order in which it is shown."""

_SHOWN: Final = 24  # pictures of the data set
_EXAMPLES: Final = 6  # of each reason, and of each kind of flag
_THUMBNAIL: Final = 112
_BINS: Final = 10


@dataclass(frozen=True)
class Built:
    """A picture of the data set: its record, the parts of the face that are visible, its perceptual hash."""

    record: Record
    parts: tuple[str, ...]
    hash: int


def histograms(built: Sequence[Built]) -> dict[str, Histogram]:
    """How sizes, quality, parts, captions and people are spread, by title."""
    records = [one.record for one in built]
    parts = Counter(part for one in built for part in one.parts)
    pictures = Counter(Counter(record.person for record in records if record.person is not None).values())
    return {
        "size of the face in the raw picture, pixels": _binned([record.extra["face_size"] for record in records]),
        "quality of the face, 0 to 1": _binned([record.extra["quality"] for record in records]),
        "pictures that show the part": {part: parts[part] for part in PARTS},
        "words in the caption": _binned([len(record.caption.split()) for record in records]),
        "words in the facial caption": _binned([len(record.face_caption.split()) for record in records]),
        "people by number of their pictures": {str(number): pictures[number] for number in sorted(pictures)},
    }


def _binned(values: Sequence[float]) -> Histogram:
    if not values:
        return {}
    counts, edges = np.histogram(values, _BINS)
    names = [f"{low:.0f}" if max(values) > 1 else f"{low:.2f}" for low in edges[:-1]]
    merged: Histogram = {}
    for name, count in zip(names, counts.tolist(), strict=True):
        merged[name] = merged.get(name, 0) + count
    return merged


def summary_page(
    photos: Path,
    out: Path,
    report: Mapping[str, Any],
    built: Sequence[Built],
    rejected: Sequence[tuple[str, Mapping[str, str]]],
) -> str:
    """The page as HTML, with pictures in it and nothing outside it.

    Args:
        photos: folder of the raw pictures.
        out: folder of the data set.
        report: "pictures", "built", "rejected", "people", "histograms" as report.json has them.
        built: pictures of the data set, in its order.
        rejected: paths in `photos`, and "code" and "reason" of each.
    """
    strange = [one for one in built if one.record.extra.get("stranger")]
    copies = [one for one in built if "near_duplicate_of" in one.record.extra]
    files = {one.record.key: one.record.files(out)["image"] for one in built}
    facts = {
        "files looked at": report["pictures"],
        "pictures in the data set": report["built"],
        "people": report["people"],
        "rejected": sum(report["rejected"].values()),
        "near-duplicates": len(copies),
        "show another person than their folder": len(strange),
    }
    step = max(1, -(-len(built) // _SHOWN))
    pairs = [((files[str(o.record.extra["near_duplicate_of"])], files[o.record.key]), o.record.key) for o in copies]
    return render(
        "dataset.html",
        title="Data set",
        facts=facts,
        charts=[{"title": title, "bars": _bars(histogram)} for title, histogram in report["histograms"].items()],
        built=len(built),
        colours=COLOURS,
        samples=[_sample(one.record, out) for one in built[::step]],
        rejected=[*_rejections(photos, rejected)],
        copies=_figures(pairs),
        copies_count=len(copies),
        strange=_figures([((files[one.record.key],), one.record.key) for one in strange]),
        strange_count=len(strange),
    )


def _rejections(photos: Path, rejected: Sequence[tuple[str, Mapping[str, str]]]) -> Iterable[dict[str, Any]]:
    for code, meaning in REASONS.items():
        some = [(path, why["reason"]) for path, why in rejected if why["code"] == code]
        examples = [
            {"path": path, "reason": reason, "pictures": [] if code == "unreadable" else _thumbnails(photos / path)}
            for path, reason in some[:_EXAMPLES]
        ]
        if some:
            yield {"code": code, "count": len(some), "meaning": meaning, "examples": examples}


def _figures(groups: Sequence[tuple[Sequence[Path], str]]) -> list[dict[str, Any]]:
    return [{"pictures": _thumbnails(*paths), "name": name} for paths, name in groups[:_EXAMPLES]]


def _sample(record: Record, out: Path) -> dict[str, Any]:
    files = record.files(out)
    labels = read_labels(files["mask"].read_bytes(), str(files["mask"]))
    seen = np.where(labels[..., None] > 0, 150, 245).astype(np.uint8).repeat(3, axis=2)
    for part, mask in part_masks(labels).items():
        seen[mask] = COLOURS[part]
    pictures = [*_thumbnails(files["image"]), inline_picture(Image.fromarray(seen), _THUMBNAIL)]
    words = {"key": record.key, "caption": record.caption, "face_caption": record.face_caption}
    return {"pictures": pictures, **words}


def _thumbnails(*files: Path) -> list[str]:
    found = []
    for file in files:
        with suppress(ConsistentIDError):  # it was removed meanwhile
            found.append(inline_picture(load_image(file), _THUMBNAIL))
    return found


def _bars(histogram: Histogram) -> list[dict[str, Any]]:
    """The bars of a chart of 340 by 132 pixels."""
    most, width = max([*histogram.values(), 1]), 330 / max(len(histogram), 6)
    bars = []
    for place, (name, count) in enumerate(histogram.items()):
        left, height = 5 + place * width, 80 * count / most
        sizes = {"x": left + 1, "top": 110 - height, "width": width - 2, "height": height}
        sizes |= {"middle": left + width / 2, "above": 106 - height}
        bars.append({"name": name, "count": count, **{key: f"{value:.1f}" for key, value in sizes.items()}})
    return bars
