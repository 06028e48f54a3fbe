"""Regions: who is where in a picture, given as boxes or masks, read as weights of every position for every person."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d

from consistentid.errors import ArgumentError
from consistentid.files.images import Photo, read_photo

Region = Sequence[float] | Photo | Tensor
"""A box, (left, top, right, bottom) in fractions of the picture, or a mask of its shape, black outside."""

_GRID = 64  # cells a side on which regions are compared
_OWN = 0.01  # of a region: less than that for its person alone is nothing


@dataclass(frozen=True, eq=False)
class Regions:
    """One region for each of P people.

    Attributes:
        areas: a box (4,) or a mask (H, W), float32 from 0 to 1, for each person.
    """

    areas: tuple[Tensor, ...]

    @classmethod
    def read(cls, regions: Regions | Sequence[Region | None], people: int | None = None) -> Regions:
        """Regions as a user gives them, in the order of the people.

        Args:
            regions: one for each person, or what this function returned.
            people: how many there are, if that is known.

        Raises:
            ArgumentError: not one for each person, outside the picture, empty, masks of several sizes, or one region
                within the others.
            ImageError: a mask that cannot be read.
        """
        given = regions.areas if isinstance(regions, Regions) else regions
        if isinstance(given, str | bytes) or not isinstance(given, Sequence) or not given:
            raise ArgumentError(
                "{regions}={value!r} is not allowed; give a list with one box or mask a person", value=given
            )
        if people is not None and len(given) != people:
            raise ArgumentError(
                "{people} people and {found} {regions}; give one for each, in the same order",
                people=people,
                found=len(given),
            )
        if isinstance(regions, Regions):
            return regions
        areas = tuple(_area(region, index) for index, region in enumerate(given))
        sizes = {index: (area.shape[1], area.shape[0]) for index, area in enumerate(areas) if area.ndim == 2}
        if len(set(sizes.values())) > 1:
            raise ArgumentError(
                "{regions} has masks of several sizes, {found}; give all masks in the picture's size",
                found=", ".join(f"{width}x{height}" for width, height in sizes.values()),
            )
        result = cls(areas)
        cover = result.cover(_GRID, _GRID)
        own = (2 * cover - cover.sum(dim=0)).clamp_min(0).sum(dim=(1, 2)) / cover.sum(dim=(1, 2))
        if len(areas) > 1 and own.min() < _OWN:
            raise ArgumentError(
                "{regions}[{index}] is overlapped entirely by the others; leave each person a place of their own: small"
                " overlaps are fine",
                index=int(own.argmin()),
            )
        return result

    def __len__(self) -> int:
        return len(self.areas)

    @property
    def key(self) -> tuple[bytes, ...]:
        """The same for the same regions, to compare and to hash."""
        return tuple(repr(tuple(area.shape)).encode() + area.numpy().tobytes() for area in self.areas)

    def given(self) -> list[list[float] | Image.Image]:
        """Boxes as numbers and masks as pictures, which `read` takes."""
        return [
            area.tolist() if area.ndim == 1 else Image.fromarray((area * 255).round().to(torch.uint8).numpy())
            for area in self.areas
        ]

    def plain(self) -> list[list[float] | str]:
        """Boxes as numbers, masks by a fingerprint: for records."""
        return [
            [round(float(x), 4) for x in area] if area.ndim == 1 else sha256(area.numpy().tobytes()).hexdigest()[:16]
            for area in self.areas
        ]

    def within(self, window: tuple[int, int, int, int], picture: tuple[int, int]) -> Regions:
        """The same regions as parts of a window of the picture.

        Args:
            window: (left, top, right, bottom) in pixels.
            picture: its (width, height).

        Raises:
            ArgumentError: a region has no place in the window, or none of its own; a mask of another shape.
        """
        self.check_shape(picture[1], picture[0])
        left, top, right, bottom = (x / picture[i % 2] for i, x in enumerate(window))
        inside: list[Region] = []
        for index, area in enumerate(self.areas):
            if area.ndim == 1:
                box = [float(x) for x in area]
                cut = [
                    min(max((x - (left, top)[i % 2]) / ((right - left), (bottom - top))[i % 2], 0.0), 1.0)
                    for i, x in enumerate(box)
                ]
                empty = cut[0] >= cut[2] or cut[1] >= cut[3]
                inside.append(cut)
            else:
                height, width = area.shape
                rows = slice(math.floor(top * height), max(math.ceil(bottom * height), 1))
                columns = slice(math.floor(left * width), max(math.ceil(right * width), 1))
                part = area[rows, columns]
                empty = not part.any()
                inside.append(part)
            if empty:
                raise ArgumentError(
                    "{regions}[{index}] lies outside of what is drawn anew; paint it into the mask", index=index
                )
        return Regions.read(inside)

    def inside(self, window: tuple[int, int, int, int], picture: tuple[int, int]) -> list[int]:
        """The numbers of the regions of which a part is in a window of the picture; see `within`."""
        left, top, right, bottom = window
        cover = self.cover(picture[1], picture[0])[:, top:bottom, left:right]
        return [number for number, part in enumerate(cover) if part.any()]

    @property
    def mask_size(self) -> tuple[int, int] | None:
        """(height, width) of the masks, None if there are boxes only."""
        return next(((area.shape[0], area.shape[1]) for area in self.areas if area.ndim == 2), None)

    def check_shape(self, height: int, width: int) -> None:
        """Makes sure that masks have the shape of the picture; units of both sides do not matter.

        Raises:
            ArgumentError: they have another one.
        """
        if (size := self.mask_size) is None:
            return
        # a mask of the picture's own pixels may differ from a latent, 1/8 of it, by less than one latent's side
        if abs(size[1] / size[0] - width / height) > max(1 / width, 1 / height) * width / height:
            raise ArgumentError(
                "the masks in {regions} are {found}, of another shape than the picture, {shape}; give its size",
                found=f"{size[1]}x{size[0]}",
                shape=f"{width}:{height}",
            )

    def cover(self, height: int, width: int) -> Tensor:
        """How much of each cell of a grid each region covers: (P, height, width), 0 to 1."""
        return torch.stack(
            [
                adaptive_avg_pool2d(area[None], (height, width))[0]
                if area.ndim == 2
                else _lengths(area[1], area[3], height)[:, None] * _lengths(area[0], area[2], width)
                for area in self.areas
            ]
        )

    def weights(self, height: int, width: int) -> Tensor:
        """Weight of each person at each position (P, height, width); where regions overlap they share.

        What is missing to 1 is the scene's.
        """
        cover = self.cover(height, width)
        return cover / cover.sum(dim=0).clamp_min(1)

    @property
    def everywhere(self) -> bool:
        """Whether a single person's region is the whole picture, so that nothing is left to the scene."""
        if len(self.areas) > 1:
            return False
        area = self.areas[0]
        return bool(area.min() >= 1) if area.ndim == 2 else area.tolist() == [0, 0, 1, 1]


def _lengths(start: Tensor, end: Tensor, cells: int) -> Tensor:
    """How much of each of `cells` equal parts of [0, 1] lies between start and end."""
    edges = torch.linspace(0, 1, cells + 1, dtype=torch.float64)
    inside = edges.clamp(float(start), float(end)).diff() * cells
    return inside.clamp(0, 1).float()


def _area(region: Region | None, index: int) -> Tensor:
    if region is None:
        raise ArgumentError(
            "{regions}[{index}] is None, so its person is in no region; give a box or a mask", index=index
        )
    if isinstance(region, Tensor):
        region = region.detach().cpu().numpy()
    row = isinstance(region, np.ndarray) and region.shape == (4,)
    if row or (isinstance(region, Sequence) and not isinstance(region, str | bytes)):
        return _box(region, index)
    mask = torch.from_numpy(np.array(read_photo(region, f"regions[{index}]").convert("L"), np.float32)) / 255
    if not mask.any():
        raise ArgumentError(
            "{regions}[{index}] is black all over, so its person is in no region; paint white where they are",
            index=index,
        )
    return mask


def _box(values: Any, index: int) -> Tensor:
    try:
        left, top, right, bottom = numbers = [float(x) for x in values]
    except (TypeError, ValueError):
        raise ArgumentError(
            "{regions}[{index}]={value!r} is no box; give four numbers, (left, top, right, bottom) in fractions of the"
            " picture, or a mask",
            index=index,
            value=values,
        ) from None
    given = f"({', '.join(f'{x:g}' for x in numbers)})"
    if not all(math.isfinite(x) and 0 <= x <= 1 for x in numbers):
        raise ArgumentError(
            "{regions}[{index}]={value} lies outside the picture; left, top, right and bottom are fractions of it from"
            " 0 to 1",
            index=index,
            value=given,
        )
    if left >= right or top >= bottom:
        raise ArgumentError(
            "{regions}[{index}]={value} is empty, so its person is in no region; left < right and top < bottom are"
            " needed",
            index=index,
            value=given,
        )
    return torch.tensor(numbers)
