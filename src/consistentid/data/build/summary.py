"""A page about a data set that was built, in one file: what came in, what was left out and why, how it looks."""

from __future__ import annotations

import base64
import io
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any, Final

import numpy as np
from PIL import Image, ImageOps

from consistentid.data.build.annotate import REASONS
from consistentid.data.dataset import read_labels
from consistentid.data.records import Record
from consistentid.errors import ConsistentIDError
from consistentid.faces.overlay import COLOURS
from consistentid.faces.parts import PARTS, part_masks
from consistentid.files.images import load_image

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
    sections = [
        "<h1>Data set</h1>",
        "<table>" + "".join(f"<tr><th>{name}<td>{value}" for name, value in facts.items()) + "</table>",
        "<h2>How it is spread</h2><div class=row>",
        *(_bars(title, histogram) for title, histogram in report["histograms"].items()),
        "</div>",
        f"<h2>Pictures</h2><p>{_count(built[::step], 'picture')} of {len(built)}, each beside what the parser saw: "
        + ", ".join(f'<b style="color:rgb{colour}">{part}</b>' for part, colour in COLOURS.items())
        + ", grey: the rest of the person.</p><div class=row>",
        *(_sample(one.record, out) for one in built[::step]),
        "</div>",
        "<h2>Rejected</h2>" + ("" if rejected else "<p>None.</p>"),
        *_rejections(photos, rejected),
        "<h2>Near-duplicates</h2>" + _note(copies, "They stay in the data set, and name the picture they are like."),
        *_figures((files[str(o.record.extra["near_duplicate_of"])], files[o.record.key], o.record.key) for o in copies),
        "<h2>Another person than in the rest of the folder</h2>" + _note(strange, "They stay; look at them."),
        *_figures((files[one.record.key], None, one.record.key) for one in strange),
    ]
    return f"<!doctype html><html lang=en><meta charset=utf-8><title>Data set</title>{_STYLE}\n" + "\n".join(sections)


_STYLE: Final = """<style>
body { font: 15px/1.4 system-ui, sans-serif; margin: 2em auto; max-width: 1100px; padding: 0 1em; color: #222 }
h2 { border-top: 1px solid #ddd; margin-top: 1.6em; padding-top: .6em }
th { text-align: left; font-weight: normal; padding-right: 2em } td { text-align: right; font-weight: bold }
.row { display: flex; flex-wrap: wrap; gap: 14px } figure { margin: 0; width: 236px } figure.one { width: 130px }
figcaption { font-size: 12px; color: #555; overflow-wrap: anywhere } svg text { font: 11px system-ui, sans-serif }
</style>"""


def _note(flagged: Sequence[Built], remark: str) -> str:
    return f"<p>{_count(flagged, 'picture')}. {remark}</p>" if flagged else "<p>None.</p>"


def _count(things: Sequence[Any], name: str) -> str:
    return f"{len(things)} {name}{'s' * (len(things) != 1)}"


def _rejections(photos: Path, rejected: Sequence[tuple[str, Mapping[str, str]]]) -> Iterable[str]:
    for code, meaning in REASONS.items():
        some = [(path, why["reason"]) for path, why in rejected if why["code"] == code]
        if some:
            yield f"<h3>{escape(code)}: {len(some)}</h3><p>{escape(meaning)}</p><div class=row>"
            for path, reason in some[:_EXAMPLES]:
                picture = "" if code == "unreadable" else _thumbnail(photos / path)
                yield f"<figure>{picture}<figcaption>{_text(path)}: {_text(reason)}</figcaption></figure>"
            yield "</div>"


def _figures(groups: Iterable[tuple[Path, Path | None, str]]) -> Iterable[str]:
    yield "<div class=row>"
    for (first, second, name), _ in zip(groups, range(_EXAMPLES), strict=False):
        pictures = _thumbnail(first) + (_thumbnail(second) if second else "")
        yield f"<figure{'' if second else ' class=one'}>{pictures}<figcaption>{_text(name)}</figcaption></figure>"
    yield "</div>"


def _sample(record: Record, out: Path) -> str:
    files = record.files(out)
    labels = read_labels(files["mask"].read_bytes(), str(files["mask"]))
    seen = np.where(labels[..., None] > 0, 150, 245).astype(np.uint8).repeat(3, axis=2)
    for part, mask in part_masks(labels).items():
        seen[mask] = COLOURS[part]
    words = f"<b>{_text(record.key)}</b><br>{_text(record.caption)}<br><i>{_text(record.face_caption)}</i>"
    pictures = _thumbnail(files["image"]) + _embedded(Image.fromarray(seen), "parts")
    return f"<figure>{pictures}<figcaption>{words}</figcaption></figure>"


def _thumbnail(file: Path) -> str:
    try:
        return _embedded(load_image(file), file.name)
    except ConsistentIDError:  # it was removed meanwhile
        return ""


def _embedded(image: Image.Image, name: str) -> str:
    buffer = io.BytesIO()
    ImageOps.contain(image, (_THUMBNAIL, _THUMBNAIL), Image.Resampling.LANCZOS).save(buffer, "JPEG", quality=80)
    data = base64.b64encode(buffer.getvalue()).decode()
    return f'<img alt="{_text(name)}" src="data:image/jpeg;base64,{data}"> '


def _text(words: str) -> str:
    return escape(words.encode("utf-8", "replace").decode())


def _bars(title: str, histogram: Histogram) -> str:
    """A bar chart, 340 by 150 pixels."""
    most, width = max([*histogram.values(), 1]), 330 / max(len(histogram), 6)
    bars = []
    for place, (name, count) in enumerate(histogram.items()):
        x, height = 5 + place * width, 80 * count / most
        middle, top = x + width / 2, 110 - height
        bars.append(
            f'<rect x="{x + 1:.1f}" y="{top:.1f}" width="{width - 2:.1f}" height="{height:.1f}" fill="#4a7db5"/>'
            f'<text x="{middle:.1f}" y="{top - 4:.1f}" text-anchor="middle" fill="#555">{count or ""}</text>'
            f'<text x="{middle:.1f}" y="124" text-anchor="middle">{escape(name)}</text>'
        )
    return (
        f'<svg width="340" height="132" role="img" aria-label="{escape(title)}">'
        f'<text x="5" y="12" font-weight="bold">{escape(title)}</text>{"".join(bars)}</svg>'
    )
