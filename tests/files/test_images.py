"""Every kind of file that a user may hand over: it works, or one line says what to do."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms

from consistentid.errors import ImageError
from consistentid.files.images import MAX_PIXELS, MIN_SIDE, contact_sheet, load_image, read_photo, to_rgb


@pytest.fixture(scope="module")
def picture() -> Image.Image:
    """64x48 RGB with smooth colour: red grows to the right, green downwards; blue marks the upper left corner."""
    y, x = np.mgrid[0:48, 0:64]
    blue = np.where((x < 32) & (y < 24), 200, 30)
    return Image.fromarray(np.stack([x * 4, y * 5, blue], -1).astype(np.uint8))


def mean_error(a: Image.Image, b: Image.Image) -> float:
    return float(np.abs(np.asarray(a, float) - np.asarray(b, float)).mean())


def png(width: int, height: int) -> bytes:
    """A PNG of that size that holds no pixels."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b"") + chunk(b"IEND", b"")


@pytest.mark.parametrize("name", ["a.png", "a.bmp", "a.tif", "a.webp", "a.jpg", "a.jpg.txt"])
def test_formats_are_told_by_content_not_by_name(picture: Image.Image, tmp_path: Path, name: str) -> None:
    kind = {"jpg": "JPEG", "webp": "WEBP"}.get(name.split(".")[1])
    picture.save(tmp_path / name, format=kind, **({"lossless": True} if kind == "WEBP" else {}))
    image = load_image(tmp_path / name)
    assert image.mode == "RGB"
    assert mean_error(image, picture) < (6 if kind == "JPEG" else 0.01)


def test_exif_rotation_is_applied(picture: Image.Image, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # turn 90 degrees clockwise to view
    picture.save(tmp_path / "turned.png", exif=exif)
    image = load_image(tmp_path / "turned.png")
    assert image.size == (48, 64)
    assert mean_error(image, picture.transpose(Image.Transpose.ROTATE_270)) == 0


def test_cmyk_palette_and_animation(picture: Image.Image, tmp_path: Path) -> None:
    picture.convert("CMYK").save(tmp_path / "cmyk.tif")
    assert mean_error(load_image(tmp_path / "cmyk.tif"), picture) < 2
    picture.quantize(256).save(tmp_path / "palette.png")
    assert mean_error(load_image(tmp_path / "palette.png"), picture) < 6
    frames = [Image.new("RGB", picture.size, "black")] * 2
    picture.save(tmp_path / "moving.png", save_all=True, append_images=frames)
    assert mean_error(load_image(tmp_path / "moving.png"), picture) == 0
    picture.save(tmp_path / "moving.gif", save_all=True, append_images=frames)
    assert mean_error(load_image(tmp_path / "moving.gif"), picture) < 12


@pytest.mark.parametrize(
    ("suffix", "values"),
    [
        ("png", np.uint16(65535)),
        ("tif", np.uint16(65535)),
        ("tif", np.int32(65535)),
        ("tif", np.float32(1)),
        ("tif", np.float32(255)),
    ],
)
def test_deep_greyscale_is_scaled_not_clipped(tmp_path: Path, suffix: str, values: np.generic) -> None:
    ramp = np.tile(np.linspace(0, 1, 64), (48, 1))
    Image.fromarray((ramp * values).astype(values.dtype)).save(tmp_path / f"deep.{suffix}")
    image = load_image(tmp_path / f"deep.{suffix}")
    assert np.abs(np.asarray(image)[..., 0] / 255 - ramp).max() < 0.005


@pytest.mark.parametrize("mode", ["L", "1"])
def test_grey_becomes_three_equal_channels(picture: Image.Image, tmp_path: Path, mode: str) -> None:
    picture.convert(mode).save(tmp_path / "grey.png")
    pixels = np.asarray(load_image(tmp_path / "grey.png"))
    assert np.array_equal(pixels, np.asarray(picture.convert(mode).convert("RGB")))


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_transparency_lies_over_white(picture: Image.Image, tmp_path: Path, mode: str) -> None:
    opaque = np.zeros((48, 64), np.uint8)
    opaque[:, 32:] = 255
    rgba = picture.copy()
    rgba.putalpha(Image.fromarray(opaque))
    if mode == "P":
        paletted = picture.quantize(256)
        paletted.paste(7, (0, 0, 32, 48))
        paletted.save(tmp_path / "clear.png", transparency=7)
        pixels = np.asarray(load_image(tmp_path / "clear.png"))
    else:
        rgba.convert(mode).save(tmp_path / "clear.png")
        pixels = np.asarray(load_image(tmp_path / "clear.png"))
    assert (pixels[:, :32] == 255).all()
    assert pixels[:, 32:].mean() < 200
    assert (np.asarray(to_rgb(Image.new("PA", (64, 48)))) == 255).all()


def test_colour_profiles_become_srgb(picture: Image.Image, tmp_path: Path) -> None:
    """A profile that means something else than sRGB changes the pixels; one that is sRGB, or broken, does not."""
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    picture.save(tmp_path / "srgb.png", icc_profile=srgb)
    assert mean_error(load_image(tmp_path / "srgb.png"), picture) < 1
    lab = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()
    for name, profile in (("wrong", lab), ("broken", b"no profile")):
        picture.save(tmp_path / f"{name}.png", icc_profile=profile)
        assert mean_error(load_image(tmp_path / f"{name}.png"), picture) == 0
    # A linear-light profile: mid grey 128 in linear light is about 188 in sRGB.
    linear = bytearray(srgb)
    start = srgb.index(b"para") if b"para" in srgb else srgb.index(b"curv")
    linear[start : start + 16] = b"curv" + bytes(4) + struct.pack(">I", 0) + bytes(4)
    grey = Image.new("RGB", (64, 64), (128, 128, 128))
    grey.save(tmp_path / "linear.png", icc_profile=bytes(linear))
    assert 180 < np.asarray(load_image(tmp_path / "linear.png")).mean() < 195


def test_bad_files_are_answered_with_name_fault_and_remedy(picture: Image.Image, tmp_path: Path) -> None:
    buffer = io.BytesIO()
    picture.resize((640, 480)).save(buffer, format="JPEG")
    jpeg = buffer.getvalue()
    cases = {
        "text.jpg": (b"hello", "not a picture"),
        "empty.png": (b"", "not a picture"),
        "half.jpg": (jpeg[: len(jpeg) // 2], "truncated"),
        "header.jpg": (jpeg[:30], "broken header"),
        "bomb.png": (png(20_000, 20_000), "megapixels"),
        "large.png": (png(MAX_PIXELS // 9_000 + 1, 9_000), "megapixels"),
        "dot.png": (png(1, 1), f"at least {MIN_SIDE}x{MIN_SIDE}"),
        "line.png": (png(4_000, MIN_SIDE - 1), f"at least {MIN_SIDE}x{MIN_SIDE}"),
    }
    for name, (content, words) in cases.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ImageError) as caught:
            load_image(tmp_path / name)
        message = str(caught.value)
        assert name in message
        assert words in message
        assert ";" in message, "no remedy"
        assert "\n" not in message
    with pytest.raises(ImageError, match="no such file"):
        load_image(tmp_path / "absent.png")
    with pytest.raises(ImageError, match="is a folder"):
        load_image(tmp_path)
    with pytest.raises(ImageError, match="not a regular file"):
        load_image("/dev/null")


def test_contact_sheet_keeps_every_picture_whole(picture: Image.Image) -> None:
    blue = Image.new("RGB", (64, 64), (0, 0, 255))
    tall = Image.new("RGB", (32, 64), (255, 0, 0))
    sheet = contact_sheet([blue], [tall] * 5, ["seed 1"] * 5, tile=64)
    pixels = np.asarray(sheet).astype(int)
    assert (pixels == (0, 0, 255)).all(-1).sum() == 64 * 64
    assert (pixels == (255, 0, 0)).all(-1).sum() == 5 * 32 * 64
    x_blue, x_red = ((pixels == colour).all(-1).any(0).nonzero()[0] for colour in ((0, 0, 255), (255, 0, 0)))
    assert x_blue.max() < x_red.min(), "the reference stands on the left"
    assert (pixels.sum(-1) < 200).any(), "captions are written"
    with pytest.raises(ValueError, match="zip"):
        contact_sheet([], [picture], [])


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_values_that_are_no_numbers_are_refused(value: float, tmp_path: Path) -> None:
    pixels = np.full((48, 48), 0.5, np.float32)
    pixels[3, 4] = value
    for array in (pixels, np.dstack([pixels] * 3), pixels.astype(np.float64)):
        with pytest.raises(ImageError, match=r"photo: holds values that are not finite"):
            read_photo(array, "photo")
    Image.fromarray(pixels).save(tmp_path / "deep.tif")
    with pytest.raises(ImageError, match=r"deep\.tif: cannot be decoded \(it holds values that are not finite"):
        load_image(tmp_path / "deep.tif")
