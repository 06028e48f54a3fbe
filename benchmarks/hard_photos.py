"""What becomes of photos that are turned, tiny, blurred, cropped, masked, badly exposed: accepted, warned of, refused.

    pip install dlib-bin face-recognition-models    # a recogniser that is nobody's judge here; or --judge FILE.onnx
    python benchmarks/hard_photos.py PHOTO... --detector scrfd.onnx --parser parser.onnx --strangers group.jpg

Each photo, which shows one person, is made worse in 44 ways, written to a file, and goes the way of a user's photo,
as it is and worse. Prints a Markdown table: of each way how many were accepted, the cosines to the photo as it was of
those accepted without a warning and with one, and what was said. The cosine is of embeddings less their mean over the
strangers, since dlib's lie all in one corner; in it two people have about 0, and dlib's own threshold, a distance of
0.6, is about 0.5.
"""

from __future__ import annotations

import tempfile
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import click
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageChops, ImageDraw, ImageEnhance, ImageFilter, ImageOps

from consistentid.errors import FaceError
from consistentid.faces.alignment import way_back
from consistentid.faces.analyzer import FaceAnalyzer
from consistentid.faces.detection import OnnxDetector
from consistentid.faces.face import Detection
from consistentid.faces.parsing import FaceParser
from consistentid.faces.recognition import OnnxRecogniser
from consistentid.faces.sight import look
from consistentid.files.images import load_image

Variant = tuple[str, Callable[[Image.Image, Path], Path]]


def _png(make: Callable[[Image.Image], Image.Image], **options: Any) -> Callable[[Image.Image, Path], Path]:
    def write(image: Image.Image, folder: Path) -> Path:
        path = folder / f"variant.{options.get('suffix', 'png')}"
        make(image).save(path, **{name: value for name, value in options.items() if name != "suffix"})
        return path

    return write


def variants(face: Detection) -> Iterator[Variant]:
    """Name and writer of each way to make a photo worse, for a photo with that face."""
    left, top, right, bottom = (float(x) for x in face.box)
    side, middle, nose = face.side, (left + right) / 2, float(face.landmarks[2, 1])
    eyes = float(face.landmarks[:2, 1].mean())

    def bar(low: float, high: float, colour: tuple[int, int, int]) -> Callable[[Image.Image], Image.Image]:
        def draw(image: Image.Image) -> Image.Image:
            image = image.copy()
            height = bottom - top
            ImageDraw.Draw(image).rectangle(
                (left - 0.1 * side, top + low * height, right + 0.1 * side, top + high * height), fill=colour
            )
            return image

        return draw

    def stretched(factor: float) -> Callable[[Image.Image], Image.Image]:
        return lambda image: image.resize((round(image.width * factor), image.height), Image.Resampling.LANCZOS)

    def deep(image: Image.Image) -> Image.Image:
        return Image.fromarray(np.asarray(image.convert("L")).astype(np.uint16) * 257)

    def noisy(image: Image.Image) -> Image.Image:
        noise = np.random.default_rng(0).normal(0, 60, (image.height, image.width, 3))
        return Image.fromarray((np.asarray(image) + noise).clip(0, 255).astype(np.uint8))

    def exif(image: Image.Image, folder: Path) -> Path:
        data = Image.Exif()
        data[274] = 6  # shown after a quarter turn clockwise
        image.transpose(Image.Transpose.ROTATE_90).save(folder / "variant.jpg", exif=data, quality=95)
        return folder / "variant.jpg"

    yield "as it is", _png(lambda image: image)
    for angle in (15, 30, 45, 60, 90, 120, 135, 180, 225, 270):
        yield f"turned by {angle} degrees", _png(lambda image, angle=angle: image.rotate(angle, expand=True))
    yield "turned by EXIF", exif
    for pixels in (64, 48, 32, 24, 16):
        yield (
            f"a face of {pixels} pixels",
            _png(lambda image, pixels=pixels: ImageOps.scale(image, pixels / side, Image.Resampling.LANCZOS)),
        )
    for share in (0.01, 0.02, 0.04, 0.06):
        yield (
            f"blurred by {share:.0%} of the face",
            _png(lambda image, share=share: image.filter(ImageFilter.GaussianBlur(share * side))),
        )
    yield "moved by 12 % of the face", _png(lambda image: image.filter(ImageFilter.BoxBlur((0.06 * side, 0))))
    for gain in (1.5, 2, 3, 4, 0.25, 0.1, 0.04):
        word = f"{gain:g} times as bright"
        yield word, _png(lambda image, gain=gain: ImageEnhance.Brightness(image).enhance(gain))
    for factor in (0.5, 0.7, 1.4, 2.0):
        yield f"{factor:g} times as wide", _png(stretched(factor))
    yield "in a face mask", _png(bar(0.55, 1.02, (70, 130, 180)))
    yield "in dark glasses", _png(bar(0.22, 0.48, (10, 10, 10)))
    yield "left half alone", _png(lambda image: image.crop((0, 0, round(middle), image.height)))
    yield "cut off under the nose", _png(lambda image: image.crop((0, 0, image.width, round(nose))))
    yield "cut off over the eyes", _png(lambda image: image.crop((0, round(eyes), image.width, image.height)))
    yield "cut to the face", _png(lambda image: image.crop((round(left), round(top), round(right), round(bottom))))
    yield "grey", _png(lambda image: image.convert("L"))
    yield "grey of 16 bits", _png(deep)
    yield "CMYK", _png(lambda image: image.convert("CMYK"), suffix="tif")
    yield "JPEG of quality 5", _png(lambda image: image, suffix="jpg", quality=5)
    yield "noise of 60", _png(noisy)
    yield "a negative", _png(ImageChops.invert)


class Dlib:
    """dlib's recogniser, on faces that our landmarks brought upright."""

    def __init__(self) -> None:
        import dlib

        package = find_spec("face_recognition_models")
        if package is None or package.origin is None:
            raise click.UsageError("the judge is missing; pip install dlib-bin face-recognition-models")
        models = Path(package.origin).parent / "models"
        self._dlib = dlib
        self._shape = dlib.shape_predictor(str(models / "shape_predictor_5_face_landmarks.dat"))
        self._network = dlib.face_recognition_model_v1(str(models / "dlib_face_recognition_resnet_model_v1.dat"))

    def embed(self, image: Image.Image, landmarks: NDArray[np.float32]) -> NDArray[np.float32]:
        """(128,) for the face with these landmarks."""
        back, shift = way_back(landmarks)
        back, shift = back / 2, shift - back * (56 + 56j)  # twice the size, with half a face more on each side
        coefficients = (back.real, -back.imag, shift.real, back.imag, back.real, shift.imag)
        upright = np.asarray(
            image.transform((448, 448), Image.Transform.AFFINE, coefficients, Image.Resampling.BICUBIC)
        )
        shape = self._shape(upright, self._dlib.rectangle(134, 166, 313, 346))
        chip = self._dlib.get_face_chip(upright, shape, size=150)
        return np.array(self._network.compute_face_descriptor(chip), np.float32)


def cosine(a: NDArray[np.float32], b: NDArray[np.float32], mean: NDArray[np.float32]) -> float:
    """Of two embeddings, less that of nobody in particular."""
    a, b = a - mean, b - mean
    return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))


@click.command()
@click.argument("photos", nargs=-1, required=True, type=click.Path(path_type=Path, exists=True))
@click.option("--detector", required=True, type=click.Path(path_type=Path, exists=True))
@click.option("--parser", required=True, type=click.Path(path_type=Path, exists=True), help="ONNX, of [-1, 1].")
@click.option(
    "--strangers", required=True, type=click.Path(path_type=Path, exists=True), help="A photo of many people."
)
@click.option("--judge", default="dlib", show_default=True, help="dlib, or an ONNX file.")
@click.option("--side", default=700, show_default=True, help="Pixels of the longer side that photos are shrunk to.")
@click.option("--recogniser", required=True, type=click.Path(path_type=Path, exists=True), help="Any; it is not asked.")
def main(
    photos: tuple[Path, ...], detector: Path, parser: Path, strangers: Path, judge: str, side: int, recogniser: Path
) -> None:
    """Measure and print."""
    half = (0.5, 0.5, 0.5)
    analyzer = FaceAnalyzer(
        OnnxDetector(detector), OnnxRecogniser(recogniser), FaceParser.onnx(parser, mean=half, std=half)
    )
    judges: Any = Dlib() if judge == "dlib" else OnnxRecogniser(judge)
    group = load_image(strangers)
    known = [judges.embed(group, face.landmarks) for face in analyzer.detect(group)]
    images = []
    for photo in photos:
        image = load_image(photo)
        image.thumbnail((side, side), Image.Resampling.LANCZOS)
        images.append(image)
    faces = [analyzer.detect(image)[0] for image in images]
    truth = [judges.embed(image, face.landmarks) for image, face in zip(images, faces, strict=True)]
    mean = np.mean(known + truth, axis=0)
    rows: dict[str, list[tuple[float, tuple[str, ...]] | str]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for image, face, expected in zip(images, faces, truth, strict=True):
            for name, write in variants(face):
                variant = load_image(write(image, Path(folder)))
                try:
                    with warnings.catch_warnings():
                        warnings.simplefilter("ignore")
                        (sight,) = look(analyzer, [variant], names=["it"], same_person=-1)
                except FaceError as error:
                    rows.setdefault(name, []).append("no face found" if "no face found" in str(error) else "refused")
                    continue
                there = judges.embed(variant, sight.face.landmarks)
                rows.setdefault(name, []).append((cosine(there, expected, mean), sight.face.warnings))
            click.echo(f"{len(rows)} variants", err=True)
    click.echo("| variant | accepted | cosine, no warning | cosine, warned | what is said |\n|---|---|---|---|---|")
    for name, results in rows.items():
        accepted = [x for x in results if not isinstance(x, str)]
        clear, warned = ([c for c, said in accepted if bool(said) == doubt] for doubt in (False, True))
        said = Counter(word.split(":")[0].split(" by ")[0] for _, words in accepted for word in words)
        said.update(x for x in results if isinstance(x, str))
        cells = [f"{min(x):.2f} to {max(x):.2f}" if x else "" for x in (clear, warned)]
        told = ", ".join(f"{word} ({count})" for word, count in said.most_common(4))
        click.echo(f"| {name} | {len(accepted)} of {len(results)} | {cells[0]} | {cells[1]} | {told} |")


if __name__ == "__main__":
    main()
