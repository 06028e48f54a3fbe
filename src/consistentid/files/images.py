"""Pictures in and contact sheets out: whatever a camera, scanner or editor wrote becomes upright 8-bit sRGB."""

from __future__ import annotations

import hashlib
import io
import re
import warnings
from collections.abc import Sequence
from os import PathLike
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageCms, ImageDraw, ImageFont, ImageOps, UnidentifiedImageError

from consistentid.errors import ImageError, first_line
from consistentid.files.reading import check_file

MIN_SIDE = 32
"""Pixels of the shorter side below which no face can be recognised."""

MAX_PIXELS = 100_000_000
"""Pixels above which a picture is refused before it is decoded: about 300 MB once in memory."""

MAX_BYTES = 1 << 30
"""Size of a file above which it is refused before it is opened."""

Photo = str | PathLike[str] | Image.Image | bytes | BinaryIO | NDArray[Any]
"""A picture in any form that `read_photo` knows."""


def load_image(path: str | PathLike[str]) -> Image.Image:
    """Read a picture file as upright 8-bit RGB.

    EXIF rotation is applied, colour profiles (CMYK too) become sRGB, 16-bit and float values are scaled, transparency
    lies over white, of an animation the first frame is taken. The size is checked before anything is decoded.

    Raises:
        ImageError: the file is missing, no picture, broken, below `MIN_SIDE` or above `MAX_PIXELS`.
    """
    file = Path(path)
    if address := re.match(r"[a-z][a-z0-9+.-]+:/|data:", str(path), re.IGNORECASE):  # of two letters: no drive
        raise ImageError(
            f"{str(path)[:60]}: is a URL ({address[0]}...), and nothing is fetched from anywhere; download the picture"
            " and name its file"
        )
    return _opened(check_file(file, MAX_BYTES, what="picture", error=ImageError), str(file))


def _opened(source: Path | BinaryIO, name: str) -> Image.Image:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            image = Image.open(source)
    except UnidentifiedImageError:
        raise ImageError(f"{name}: is not a picture that can be read; use JPEG, PNG, WebP, TIFF, BMP or GIF") from None
    except Image.DecompressionBombError:
        raise ImageError(f"{name}: has far too many pixels; {_SCALE_DOWN}") from None
    except PermissionError:
        raise ImageError(f"{name}: may not be read; change its permissions") from None
    except Exception as error:  # a broken header makes Pillow's plugins raise nearly anything
        raise ImageError(f"{name}: has a broken header ({first_line(error)}); export the picture again") from None
    with image:
        return to_rgb(image, name)


def read_photo(photo: Photo, name: str) -> Image.Image:
    """A picture in any form that Python knows, as `load_image` reads files; `name` stands for it in messages.

    Args:
        photo: a path; a Pillow image; the bytes of a file, or a stream of them; an array (H, W), (H, W, 1), (H, W, 3)
            or (H, W, 4) in RGB order, uint8, bool, or floats from 0 to 1.
        name: of what is read, unless it is a path.

    Raises:
        ImageError: it is none of these, or cannot be read.
    """
    if isinstance(photo, Image.Image):
        return to_rgb(photo, name)
    if isinstance(photo, str | PathLike):
        return load_image(photo)
    if isinstance(photo, bytes | bytearray | memoryview):
        return _opened(io.BytesIO(photo), name)
    if isinstance(photo, np.ndarray):
        return to_rgb(Image.fromarray(_as_bytes(photo, name)), name)
    if hasattr(photo, "read"):
        return _opened(photo, name)
    raise ImageError(
        f"{name}: a {type(photo).__name__} is no picture; give a path, a Pillow image, an array (H, W, 3), or the bytes"
        " of a file"
    )


def _as_bytes(array: NDArray[Any], name: str) -> NDArray[np.uint8]:
    """An array (H, W), (H, W, 3) or (H, W, 4) of uint8."""
    squeezed = array[..., 0] if array.ndim == 3 and array.shape[2] == 1 else array
    if squeezed.ndim not in (2, 3) or (squeezed.ndim == 3 and squeezed.shape[2] not in (3, 4)):
        raise ImageError(f"{name}: an array of shape {array.shape} is no picture; give (H, W) or (H, W, 3), RGB order")
    if squeezed.dtype == np.uint8:
        return squeezed
    if np.issubdtype(squeezed.dtype, np.inexact) and not np.isfinite(squeezed).all():
        raise ImageError(f"{name}: holds values that are not finite (NaN or inf); give floats from 0 to 1")
    if squeezed.dtype == np.bool_:
        return squeezed.astype(np.uint8) * np.uint8(255)
    if np.issubdtype(squeezed.dtype, np.floating) and squeezed.size and 0 <= squeezed.min() <= squeezed.max() <= 1:
        return np.round(squeezed * 255).astype(np.uint8)
    raise ImageError(
        f"{name}: an array of {array.dtype} with values that are no picture; give uint8 from 0 to 255, or floats from 0"
        " to 1"
    )


def to_rgb(image: Image.Image, name: str = "picture") -> Image.Image:
    """Any opened Pillow image as upright 8-bit RGB, as `load_image` does for files; `name` goes into the errors."""
    width, height = image.size
    if min(width, height) < MIN_SIDE:
        raise ImageError(f"{name}: is {width}x{height} pixels, too small; use one of at least {MIN_SIDE}x{MIN_SIDE}")
    if width * height > MAX_PIXELS:
        raise ImageError(f"{name}: is {width}x{height} pixels, too large; {_SCALE_DOWN}")
    try:
        image.load()
        return _to_rgb(ImageOps.exif_transpose(image))
    except Exception as error:  # a broken body makes Pillow's decoders raise nearly anything
        raise ImageError(
            f"{name}: cannot be decoded ({first_line(error)}); it is truncated or damaged, copy or export it again"
        ) from None


def pixel_digest(image: Image.Image) -> str:
    """The first 12 hexadecimal digits of the SHA-256 of a picture's size, mode and pixels."""
    head = f"{image.mode} {image.width}x{image.height} ".encode()
    return hashlib.sha256(head + image.tobytes()).hexdigest()[:12]


def contact_sheet(
    references: Sequence[Image.Image],
    pictures: Sequence[Image.Image],
    captions: Sequence[str],
    tile: int = 256,
    columns: int | None = None,
) -> Image.Image:
    """One RGB picture to judge a run by: references in a column on the left, pictures in a grid on the right.

    `captions` holds one short line for each picture. Every picture is fitted into `tile` pixels of height, and of width
    or, for wide pictures, up to twice as many; never cut. `columns` of the grid are chosen by the number of pictures
    when not given.
    """
    line, gap = max(12, tile // 12), max(4, tile // 32)
    font = ImageFont.load_default(size=line * 0.8)
    columns = columns or max(1, min(len(pictures), max(4, round(len(pictures) ** 0.5 * 1.5))))
    rows = max(-(-len(pictures) // columns), 1)
    left = -(-len(references) // rows)
    wide = min(max([tile, *(tile * picture.width // picture.height for picture in pictures)]), 2 * tile)
    step_x, step_y = wide + gap, tile + line + gap
    # The two groups stand apart by a wider gap, so that nobody takes the photo for a result.
    start = left * (tile + gap) + (2 * gap if references else 0)
    sheet = Image.new("RGB", (start + columns * step_x + gap, rows * step_y + gap), "white")
    draw = ImageDraw.Draw(sheet)

    def place(image: Image.Image, x: int, y: int, width: int, caption: str) -> None:
        fitted = ImageOps.contain(image.convert("RGB"), (width, tile), Image.Resampling.LANCZOS)
        sheet.paste(fitted, (x + (width - fitted.width) // 2, y + (tile - fitted.height) // 2))
        draw.text((x + width // 2, y + tile), caption, fill="black", font=font, anchor="ma")

    for index, image in enumerate(references):
        place(image, gap + index // rows * (tile + gap), gap + index % rows * step_y, tile, "reference")
    for index, (image, caption) in enumerate(zip(pictures, captions, strict=True)):
        place(image, start + gap + index % columns * step_x, gap + index // columns * step_y, wide, caption)
    return sheet


_SCALE_DOWN = f"scale it down to at most {MAX_PIXELS // 1_000_000} megapixels"


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode in ("I", "F") or image.mode.startswith("I;"):
        return _scale_to_8_bit(image).convert("RGB")
    transparent = image.mode in ("RGBA", "RGBa", "LA", "La", "PA") or "transparency" in image.info
    if transparent:
        image = image.convert("RGBA")
    elif image.mode in ("P", "1"):
        image = image.convert("RGB")
    rgb = _to_srgb(image)
    if not transparent:
        return rgb
    white = Image.new("RGB", rgb.size, "white")
    white.paste(rgb, mask=image.getchannel("A"))
    return white


def _scale_to_8_bit(image: Image.Image) -> Image.Image:
    """Deep greyscale to 8 bit: Pillow's own conversion clips everything above 255 to white."""
    values = np.asarray(image).astype(np.float64)
    if not np.isfinite(values).all():
        raise ValueError("it holds values that are not finite, NaN or inf")
    values = values - min(values.min(), 0)
    highest = values.max()
    levels = (1.0, 255.0, 65535.0) if image.mode == "F" else (65535.0,)
    white = next((level for level in levels if highest <= level), highest)
    return Image.fromarray(np.round(values * (255 / white)).astype(np.uint8))


def _to_srgb(image: Image.Image) -> Image.Image:
    profile = image.info.get("icc_profile")
    if profile:
        try:
            converted = ImageCms.profileToProfile(
                image.convert("RGB") if image.mode == "RGBA" else image,
                ImageCms.ImageCmsProfile(io.BytesIO(profile)),
                ImageCms.createProfile("sRGB"),
                outputMode="RGB",
            )
            if converted is not None:
                return converted
        except (ImageCms.PyCMSError, OSError):
            pass  # a profile of another colour space than the picture's: the plain conversion is the best there is
    return image.convert("RGB")
