"""`Provenance`: what a picture is given on its way out of the library, by whomever it is written."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from consistentid.errors import InputError
from consistentid.files.output import encode_png
from consistentid.provenance import watermark
from consistentid.provenance.credentials import Signer


@dataclass(frozen=True)
class Provenance:
    """Which marks pictures carry beside the record that each of them holds.

    Attributes:
        watermark: the invisible mark in the pixels. Off where pictures are measured, not shown.
        signer: who signs them (C2PA); nobody by default. A signature differs each time, and so do a file's bytes; its
            pixels do not.
    """

    watermark: bool = True
    signer: Signer | None = None

    def mark(self, image: Image.Image, kept: Image.Image | None = None) -> Image.Image:
        """The picture with the invisible mark, if it gets one; where it equals `kept`, it stays as it is."""
        if not self.watermark:
            return image
        if kept is None or kept.size != image.size:
            return watermark.embed(image)
        return watermark.embed(image, (np.asarray(image) != np.asarray(kept.convert("RGB"))).any(axis=-1))

    def encode(self, image: Image.Image, record: Mapping[str, Any], kept: Image.Image | None = None) -> bytes:
        """A PNG of a picture with all its marks.

        Args:
            image: RGB.
            record: how it was made.
            kept: a picture of its size that was not made by a model, of which it holds what was not drawn anew.

        Should it not be possible to sign it, it is encoded without a signature, and a `UserWarning` says why.
        """
        png = encode_png(self.mark(image, kept), record, composite=kept is not None)
        if self.signer is None:
            return png
        try:
            return self.signer.sign(png, composite=kept is not None)
        except InputError as error:  # a finished picture is not lost to a certificate that expired meanwhile
            warnings.warn(f"a picture could not be signed ({error}), and is saved without a signature", stacklevel=2)
            return png


UNMARKED = Provenance(watermark=False)
"""For pictures that are measured: their pixels are those that were made."""
