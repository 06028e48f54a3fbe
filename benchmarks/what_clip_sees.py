"""How much of a face CLIP's centre crop takes away: of the whole photo, and of the square cut round the face.

    python benchmarks/what_clip_sees.py PHOTO... --detector scrfd_10g.onnx

Prints JSON: for each face of each photo the share of its box that is lost, and how many faces lose more than 5 %.
"""

from __future__ import annotations

import json
from pathlib import Path

import click
import numpy as np

from consistentid.faces.detection import OnnxDetector
from consistentid.faces.face import Detection
from consistentid.faces.portrait import moved, square_round
from consistentid.files.images import load_image

MUCH = 0.05


def lost(face: Detection, size: tuple[int, int]) -> float:
    """Share of the face's box outside the middle square of a picture of that size."""
    side = min(size)
    corner = np.array([(length - side) / 2 for length in size])
    low, high = np.maximum(face.box[:2], corner), np.minimum(face.box[2:], corner + side)
    return 1 - float(np.prod((high - low).clip(0))) / face.area


@click.command()
@click.argument("photos", nargs=-1, required=True, type=click.Path(path_type=Path, exists=True))
@click.option("--detector", required=True, type=click.Path(path_type=Path, exists=True))
def main(photos: tuple[Path, ...], detector: Path) -> None:
    """Measure and print."""
    find = OnnxDetector(detector)
    rows = []
    for photo in photos:
        image = load_image(photo)
        for face in find.detect(image):
            box = square_round(face, image.size)
            side = box[2] - box[0]
            kept = image.width == image.height and side >= 0.75 * image.width
            rows.append(
                {
                    "photo": photo.name,
                    "pixels": image.size,
                    "face": round(face.side),
                    "lost of the whole photo": round(lost(face, image.size), 3),
                    "lost of the square": round(lost(moved(face, box), (side, side)), 3),
                    "unchanged": kept,
                }
            )
    names = ("lost of the whole photo", "lost of the square")
    report = {"faces": len(rows), "unchanged": sum(row["unchanged"] for row in rows)}
    report |= {f"more than 5 % {name}": sum(row[name] > MUCH for row in rows) for name in names}
    print(json.dumps({**report, "each": rows}, indent=1))


if __name__ == "__main__":
    main()
