"""Parts of pictures and of label maps, also such as reach over the border."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from consistentid.faces.face import Box


def cut(image: Image.Image, box: Box) -> Image.Image:
    """That part of an RGB picture; where it reaches over the border the edges are drawn out.

    Black bars instead would be an object to the networks.
    """
    left, top, right, bottom = box
    inside = max(left, 0), max(top, 0), min(right, image.width), min(bottom, image.height)
    if inside == box:
        return image.crop(box)
    around = (inside[1] - top, bottom - inside[3]), (inside[0] - left, right - inside[2]), (0, 0)
    return Image.fromarray(np.pad(np.asarray(image.crop(inside)), around, mode="edge"))


def cut_labels(labels: NDArray[np.uint8], box: Box) -> NDArray[np.uint8]:
    """That part of a label map (H, W); beyond the border is background."""
    return np.asarray(Image.fromarray(labels).crop(box))
