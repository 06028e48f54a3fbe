"""Showing what was seen in a picture: boxes, landmarks and parts; and what CLIP gets of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np
from PIL import Image, ImageDraw, ImageFont, ImageOps

from consistentid.faces.face import Detection, Face
from consistentid.faces.parts import PARTS, part_masks
from consistentid.faces.sight import Sight

COLOURS: Final = dict(
    zip(PARTS, ((255, 193, 7), (33, 150, 243), (0, 200, 120), (233, 30, 99), (156, 39, 176)), strict=True)
)
"""RGB of each part."""

_MARK: Final = (255, 255, 255)
_CHOSEN: Final = (0, 230, 118)
_OPACITY: Final = 0.45
_TILE: Final = 224


def draw_faces(image: Image.Image, faces: Sequence[Detection], chosen: int | None = None) -> Image.Image:
    """The picture with each face's box, number, landmarks and coloured parts, over a legend.

    Boxes and numbers stand outside the faces, and landmarks are small against them, so that nothing is covered.

    Args:
        image: RGB picture; it stays as it is.
        faces: largest first, so that numbers are those by which a face is chosen; those that are a `Face` with parts.
        chosen: number of the face whose box is green and has a double line; by default none.

    Returns:
        RGB picture, of the same width and as much higher as the legend needs.
    """
    pixels = np.array(image, np.float32)
    for face in faces:
        if isinstance(face, Face):
            for part, mask in part_masks(face.parsing).items():
                pixels[mask] += _OPACITY * (np.array(COLOURS[part], np.float32) - pixels[mask])
    shown = Image.fromarray(pixels.round().astype(np.uint8))

    stroke = max(1, round(max(image.size) / 400))
    font = ImageFont.load_default(size=max(10, 8 * stroke))
    draw = ImageDraw.Draw(shown)
    for number, face in enumerate(faces):
        colour = _CHOSEN if number == chosen else _MARK
        width = stroke * (2 if number == chosen else 1)
        left, top, right, bottom = face.box.tolist()
        draw.rectangle((left - width, top - width, right + width, bottom + width), outline=colour, width=width)
        radius = min(stroke, max(0.5, face.side / 60))
        for x, y in face.landmarks.tolist():
            draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=colour)
        place = (left, top - 2 * width), "ls"
        if top - 2 * width < font.getbbox("0")[3]:  # no room above
            place = (left, bottom + 2 * width), "lt"
        draw.text(place[0], str(number), fill=colour, font=font, stroke_width=1, stroke_fill=(0, 0, 0), anchor=place[1])
    return _with_legend(shown, font)


def draw_sights(sights: Sequence[Sight], parts: Mapping[str, Image.Image]) -> Image.Image:
    """Each photo with the chosen face marked beside the portrait that CLIP sees, over the pictures of the parts.

    Args:
        sights: of a person's photos.
        parts: what `IdentityEncoder.parts` makes of them.

    Returns:
        RGB picture.
    """
    rows = []
    for sight in sights:
        faces: list[Detection] = list(sight.faces)
        faces[sight.index] = sight.face
        photo = draw_faces(sight.photo, faces, sight.index)
        photo = ImageOps.contain(photo, (3 * _TILE, 3 * _TILE), Image.Resampling.LANCZOS)
        rows.append([photo, sight.portrait.resize((_TILE, _TILE), Image.Resampling.LANCZOS)])
    rows.append([parts[part].resize((_TILE, _TILE), Image.Resampling.LANCZOS) for part in PARTS if part in parts])
    gap = _TILE // 28
    width = max(sum(tile.width + gap for tile in row) for row in rows) + gap
    height = sum(max((tile.height for tile in row), default=0) + gap for row in rows) + gap
    shown = Image.new("RGB", (width, height), "white")
    y = gap
    for row in rows:
        x = gap
        for tile in row:
            shown.paste(tile, (x, y))
            x += tile.width + gap
        y += max((tile.height for tile in row), default=0) + gap
    return shown


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
