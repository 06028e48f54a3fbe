"""Where the faces are, from parsing labels alone: for networks that know drawings, where no detector is at hand."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from consistentid.faces.alignment import TEMPLATE, align, similarity
from consistentid.faces.analyzer import Parser
from consistentid.faces.face import Detection
from consistentid.faces.parts import LABELS
from consistentid.faces.regions import components

Mask = NDArray[np.bool_]
_HALF: Final = np.array((-0.5, 0.5))  # from a pixel's centre to its outer borders

Complex = NDArray[np.complex128]  # positions as x + iy

_BACKGROUND, _SKIN, _GLASSES, _NOSE, _CLOTH = 0, 1, 6, 10, 16
_EYES, _MOUTH, _FEATURES = (4, 5), (11, 12, 13), (2, 3, 4, 5, 6, 10, 11, 12, 13)

_MIN_SHARE: Final = 0.002
"""Share of the picture from which skin is a face and not a speck: a face of about 1/20 of the side."""

_FACE: Final = (slice(20, 104), slice(20, 92))
"""Rows and columns of an aligned face that hold skin and features, and little else."""

_NOSE_TIP: Final = 0.8
"""Share of the nose's pixels above its tip."""


class SureParser(Parser, Protocol):
    """A parser that knows how sure it is."""

    def parse_surely(self, images: Sequence[Image.Image]) -> list[tuple[NDArray[np.uint8], NDArray[np.float32]]]:
        """Labels (H, W) of each of several pictures, and their probabilities."""


class LabelDetector:
    """Finds faces and landmarks in the labels that a parser gives.

    A parser labels anything: it puts a face into a black picture, too. What it sees is taken for one within limits,
    which hold for one parser and are measured by `benchmarks/no_faces.py`; without limits everything is.

    Args:
        parser: makes the labels.
        side: pixels of the longer side at which a larger picture is parsed.
        visible: share of the five landmarks that have to be seen.
        sure: mean probability that the parser has to give its labels of the face; it sees no face in noise for sure.
        flat: share of the aligned face's pixels that may have exactly the colour of their neighbours; faces are shaded,
            and label maps, discs and blank pictures are not.
    """

    def __init__(
        self, parser: SureParser, side: int = 256, *, visible: float = 0.0, sure: float = 0.0, flat: float = 1.0
    ) -> None:
        self._parser = parser
        self._side = side
        self._visible, self._sure, self._flat = visible, sure, flat

    def detect(self, image: Image.Image) -> list[Detection]:
        """All faces of an RGB picture; the score is the share of the five landmarks that is visible."""
        return self.detect_batch([image])[0]

    def detect_batch(self, images: Sequence[Image.Image]) -> list[list[Detection]]:
        """The faces of several pictures, which are parsed together."""
        small = [self._shrunk(image) for image in images]
        seen = self._parser.parse_surely(small)
        return [list(self._faces(image, *labelled)) for image, labelled in zip(images, seen, strict=True)]

    def _faces(
        self, image: Image.Image, labels: NDArray[np.uint8], probabilities: NDArray[np.float32]
    ) -> Iterator[Detection]:
        stretch = np.divide(image.size, labels.shape[::-1], dtype=np.float32)
        for found in faces_in_labels(labels):
            if found.score < self._visible or sureness(labels, probabilities, found) < self._sure:
                continue
            face = _stretched(found, stretch)
            if flatness(image, face) <= self._flat:
                yield face

    def _shrunk(self, image: Image.Image) -> Image.Image:
        scale = max(image.size) / self._side
        if scale <= 1:
            return image
        size = (max(1, round(image.width / scale)), max(1, round(image.height / scale)))
        return image.resize(size, Image.Resampling.BICUBIC)


def sureness(labels: NDArray[np.uint8], probabilities: NDArray[np.float32], face: Detection) -> float:
    """Mean probability of the labels of a face, within its box."""
    left, top, right, bottom = (max(0, int(x)) for x in face.box)
    box = slice(top, bottom + 1), slice(left, right + 1)
    head = ~np.isin(labels[box], (_BACKGROUND, _CLOTH))
    return float(probabilities[box][head].mean()) if head.any() else 0.0


def flatness(image: Image.Image, face: Detection) -> float:
    """Share of the pixels of an aligned face that have exactly the colour of the next ones."""
    pixels = np.asarray(align(image, face.landmarks), int)[_FACE]
    steps = np.maximum(abs(np.diff(pixels, axis=1)).max(axis=2)[:-1], abs(np.diff(pixels, axis=0)).max(axis=2)[:, :-1])
    return float((steps == 0).mean())


def faces_in_labels(labels: NDArray[np.uint8]) -> list[Detection]:
    """Faces of a label map.

    Heads are regions of anything but background and clothes, divided where they hold several noses. A head with skin
    and at least one facial feature is a face.

    Args:
        labels: (H, W) uint8 CelebAMask-HQ labels.

    Returns:
        Faces in reading order; the score is the share of the five landmarks that is visible, the others are placed
        where they are on a mean face.
    """
    found = []
    for head in _heads(labels):
        inside = np.where(head, labels, _BACKGROUND)
        visible = np.isin(inside, _FEATURES)
        if visible.any() and (inside == _SKIN).sum() >= _MIN_SHARE * labels.size:
            found.append(_detection(inside, visible | (inside == _SKIN)))
    return found


def _stretched(found: Detection, stretch: NDArray[np.float32]) -> Detection:
    return Detection(found.box * np.tile(stretch, 2), found.landmarks * stretch, found.score)


def _heads(labels: NDArray[np.uint8]) -> Iterator[Mask]:
    regions = components(~np.isin(labels, (_BACKGROUND, _CLOTH)) & (labels < len(LABELS)))
    for number in range(1, int(regions.max(initial=0)) + 1):
        yield from _divided(regions == number, labels)


def _divided(head: Mask, labels: NDArray[np.uint8]) -> list[Mask]:
    """One mask for each face of heads that touch: pixels go to the nearest nose that has a mouth and an eye."""
    reach = 0.5 * float(np.sqrt((head & (labels == _SKIN)).sum()))
    noses = _blobs(head & (labels == _NOSE), reach)
    while len(noses) > 1:
        parts = np.zeros((len(noses), *head.shape), bool)
        parts[np.abs(_positions(head)[:, None] - noses).argmin(axis=1), *np.nonzero(head)] = True
        real = [all(np.isin(labels[part], kind).any() for kind in (_MOUTH, (*_EYES, _GLASSES))) for part in parts]
        if all(real):
            return list(parts)
        noses = noses[real]
    return [head]


def _detection(labels: NDArray[np.uint8], face: Mask) -> Detection:
    pixels = _positions(face)
    # Half a percent on each side is left out, so that specks do not stretch the box.
    left, right = np.quantile(pixels.real, (0.005, 0.995)) + _HALF
    top, bottom = np.quantile(pixels.imag, (0.005, 0.995)) + _HALF
    middle, width = complex(left + right, top + bottom) / 2, right - left

    nose = _positions(labels == _NOSE)
    eyes = _eyes(labels, nose.mean() if len(nose) else middle, width)
    tilt = eyes[1] - eyes[0] if not np.isnan(eyes).any() else 1 + 0j
    tilt /= abs(tilt)
    points = np.concatenate(
        [eyes, [_tip(nose / tilt) * tilt], _corners(_positions(np.isin(labels, _MOUTH)) / tilt) * tilt]
    )

    known = ~np.isnan(points)
    template = TEMPLATE.astype(np.float64) @ (1, 1j)
    if known.sum() >= 2:
        a, b = similarity(_pairs(template[known]), _pairs(points[known]))
    else:
        a, b = (
            complex(width / np.ptp(template.real) / 2),
            middle - template.mean() * (width / np.ptp(template.real) / 2),
        )
    points = np.where(known, points, a * template + b)
    return Detection(np.array([left, top, right, bottom], np.float32), _pairs(points), float(known.mean()))


def _eyes(labels: NDArray[np.uint8], nose: complex, width: float) -> Complex:
    """Centres of both eyes, the picture's left one first; behind glasses, of both lenses; NaN where not visible."""
    mask = np.isin(labels, _EYES)
    seeds = _blobs(mask, reach=0.2 * width)[:2]
    if len(seeds) == 0 and (labels == _GLASSES).any():
        mask = labels == _GLASSES
        lenses = _positions(mask)
        low, high = np.quantile(lenses.real, (0.25, 0.75))
        seeds = np.array([complex(low, lenses.imag.mean()), complex(high, lenses.imag.mean())])
    pixels = _positions(mask)
    nearest = np.abs(pixels[:, None] - seeds).argmin(axis=1) if len(seeds) else np.zeros(0)
    # Glasses as narrow as a pixel are one lens.
    centres = sorted((pixels[nearest == index].mean() for index in np.unique(nearest)), key=lambda z: z.real)
    if len(centres) == 1:
        centres.insert(int(centres[0].real < nose.real), complex(np.nan, np.nan))
    return np.array(centres or [complex(np.nan, np.nan)] * 2)


def _tip(nose: Complex) -> complex:
    return complex(nose.real.mean(), np.quantile(nose.imag, _NOSE_TIP)) if len(nose) else complex(np.nan, np.nan)


def _corners(mouth: Complex) -> Complex:
    if not len(mouth):
        return np.full(2, complex(np.nan, np.nan))
    left, right = mouth.real.min(), mouth.real.max()
    return np.array([mouth[mouth.real < left + 1].mean() - 0.5, mouth[mouth.real > right - 1].mean() + 0.5])


def _blobs(mask: Mask, reach: float) -> Complex:
    """Centres of regions, largest first, without specks and without those within reach of a larger one."""
    regions = components(mask)
    numbers = regions[mask]
    pixels = _positions(mask)
    areas = np.bincount(numbers, minlength=1)[1:]
    kept: list[np.complex128] = []
    for number in np.argsort(-areas, kind="stable") + 1:
        centre = pixels[numbers == number].mean()
        if areas[number - 1] >= areas.max() / 5 and all(abs(centre - other) > reach for other in kept):
            kept.append(centre)
    return np.array(kept, np.complex128)


def _positions(mask: Mask) -> Complex:
    """Centres of a mask's pixels, in reading order."""
    y, x = np.nonzero(mask)
    return (x + 0.5) + 1j * (y + 0.5)


def _pairs(points: Complex) -> NDArray[np.float32]:
    return np.stack([points.real, points.imag], axis=1).astype(np.float32)
