"""Showing what was seen in a picture: boxes, landmarks and parts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from consistentid.faces.analyzer import Face
from consistentid.faces.parts import PARTS, part_masks

COLOURS: Final = dict(
    zip(PARTS, ((255, 193, 7), (33, 150, 243), (0, 200, 120), (233, 30, 99), (156, 39, 176)), strict=True)
)
"""RGB of each part."""

_MARK: Final = (255, 255, 255)
_OPACITY: Final = 0.45


def draw_faces(image: Image.Image, faces: Sequence[Face]) -> Image.Image:
    """The picture with each face's box, number, landmarks and coloured parts, over a legend.

    Args:
        image: RGB picture; it stays as it is.
        faces: as `FaceAnalyzer.analyze` returns them, so that numbers are those by which a face is chosen.

    Returns:
        RGB picture, of the same width and as much higher as the legend needs.
    """
    pixels = np.array(image, np.float32)
    for face in faces:
        for part, mask in part_masks(face.parsing).items():
            pixels[mask] += _OPACITY * (np.array(COLOURS[part], np.float32) - pixels[mask])
    shown = Image.fromarray(pixels.round().astype(np.uint8))

    stroke = max(1, round(max(image.size) / 256))
    font = ImageFont.load_default(size=max(10, 8 * stroke))
    draw = ImageDraw.Draw(shown)
    for number, face in enumerate(faces):
        left, top, right, bottom = face.box.tolist()
        draw.rectangle((left, top, right, bottom), outline=_MARK, width=stroke)
        for x, y in face.landmarks.tolist():
            radius = 2 * stroke
            draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=_MARK, outline=(0, 0, 0), width=stroke)
        draw.text(
            (left + 2 * stroke, top + stroke), str(number), fill=_MARK, font=font, stroke_width=1, stroke_fill=(0, 0, 0)
        )
    return _with_legend(shown, font)


def _with_legend(image: Image.Image, font: ImageFont.ImageFont | ImageFont.FreeTypeFont) -> Image.Image:
    """The picture over lines of part names, each after a swatch of its colour."""
    measure = ImageDraw.Draw(image)
    line = int(measure.textbbox((0, 0), "Ag", font=font)[3] * 1.4)
    places, x, y = [], 0, 0
    for part in PARTS:
        width = 2 * line + int(measure.textlength(part, font=font))
        if x and x + width > image.width:
            x, y = 0, y + line
        places.append((part, x, y))
        x += width
    shown = Image.new("RGB", (image.width, image.height + y + line), (24, 24, 24))
    shown.paste(image)
    draw = ImageDraw.Draw(shown)
    for part, x, y in places:
        top = image.height + y
        draw.rectangle((x + line // 4, top + line // 4, x + line * 3 // 4, top + line * 3 // 4), fill=COLOURS[part])
        draw.text((x + line, top + line // 10), part, fill=_MARK, font=font)
    return shown
