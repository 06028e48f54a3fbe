"""What the measures see of a picture: CLIP and DINO features, the judge's embedding, and features of facial parts."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from itertools import islice
from pathlib import Path
from typing import Any, Final, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from consistentid.drawn.scene_reader import SceneReader
from consistentid.errors import CheckpointError, ConsistentIDError, InputError, first_line
from consistentid.faces.analyzer import FaceAnalyzer, Recogniser
from consistentid.faces.face import Face
from consistentid.faces.onnx import onnx_providers
from consistentid.faces.parts import PARTS, part_masks, part_pictures
from consistentid.files.weights import check_network, fingerprint
from consistentid.pipeline.pipeline import ConsistentIDPipeline
from consistentid.presets.clip_pair import BATCH, ClipEncoder, VisionEncoder, clip_of_preset
from consistentid.presets.loading import TEXT_PROJECTION, bound_length, load_image_encoder, loading
from consistentid.presets.preset import Preset

Floats = NDArray[np.floating[Any]]

CLIP_OF_PHOTOS = "openai/clip-vit-large-patch14"
DINO_OF_PHOTOS = "facebook/dino-vits16"
_GREY: Final = (128, 128, 128)  # zero to the network


class PictureEncoder(Protocol):
    """Makes features of pictures; `name` goes into the report."""

    name: str

    def embed(self, pictures: Sequence[Image.Image]) -> Floats:
        """(K, D) float32 of K RGB pictures of any size, not normalised."""


class PartEncoder(Protocol):
    """Makes features of facial parts; `name` goes into the report."""

    name: str

    def embed(self, picture: Image.Image, face: Face) -> dict[str, Floats]:
        """Part -> (D,) float32 of each part that is visible on a face of an RGB picture."""


class CroppedParts:
    """Parts cut out as the adapter sees them, through an encoder of pictures (the paper's FGIS)."""

    def __init__(self, encoder: PictureEncoder) -> None:
        self.name = f"{encoder.name} on crops"
        self._encoder = encoder

    def embed(self, picture: Image.Image, face: Face) -> dict[str, Floats]:
        """Part -> (D,) float32, not normalised."""
        crops = part_pictures(picture, face.parsing)
        return dict(zip(crops, self._encoder.embed(list(crops.values())), strict=True)) if crops else {}


class AlignedParts:
    """Each part alone at its place in the aligned face, all else grey, through a face recogniser."""

    def __init__(self, recogniser: Recogniser, name: str) -> None:
        self.name = f"{name} on aligned parts"
        self._recogniser = recogniser

    def embed(self, picture: Image.Image, face: Face) -> dict[str, Floats]:
        """Part -> (D,) float32 of unit length."""
        found = {}
        for part, mask in part_masks(face.parsing).items():
            alone = Image.composite(picture, Image.new("RGB", picture.size, _GREY), Image.fromarray(mask))
            found[part] = self._recogniser.embed(alone, face.landmarks)
        return found


@dataclass(frozen=True, eq=False)
class Encoders:
    """All that a benchmark looks through.

    Attributes:
        clip: text and whole pictures.
        dino: whole pictures; None where there is none for this kind of picture.
        parts: facial parts.
        faces: detector, judge and parser.
        judge: the judge's name.
        scenes: what drawings show; None where CLIP tells.
        marks: reasons to read a score with care, for the report.
    """

    clip: ClipEncoder
    dino: PictureEncoder | None
    parts: PartEncoder
    faces: FaceAnalyzer
    judge: str
    scenes: SceneReader | None = None
    marks: tuple[str, ...] = ()

    def names(self) -> dict[str, str]:
        """Role -> name, for the report."""
        return {
            "CLIP": self.clip.name,
            "DINO": self.dino.name if self.dino else "none",
            "facial parts": self.parts.name,
            "judge": self.judge,
            "adherence": self.scenes.name if self.scenes else "CLIP",
        }


@dataclass(frozen=True, eq=False)
class Features:
    """What the encoders see of K pictures.

    Attributes:
        clip: (K, D).
        dino: (K, E); NaN where there is no such encoder.
        face: (K, F) the judge's embedding of the largest face; NaN where there is none.
        parts: (K, N, G) in order of `PARTS`; NaN where a part is hidden or there is no face.
        scene: (K, F) number of the value of each of `FACTORS` that is shown; NaN where nothing reads it.
    """

    clip: Floats
    dino: Floats
    face: Floats
    parts: Floats
    scene: Floats

    def __len__(self) -> int:
        return len(self.clip)

    def with_blank(self) -> Features:
        """The same with a last row of NaN, so that the index -1 stands for a picture that was never made."""
        rows = {f.name: getattr(self, f.name) for f in fields(self)}
        return Features(**{name: np.concatenate([x, np.full_like(x[:1], np.nan)]) for name, x in rows.items()})


def see(pictures: Iterable[Image.Image], encoders: Encoders) -> Features:
    """Everything the measures need of RGB pictures; the largest face of each is meant."""
    clip, dino, faces, parts, scene = [], [], [], [], []
    stream = iter(pictures)
    while batch := list(islice(stream, BATCH)):
        clip.append(encoders.clip.embed(batch))
        unknown = np.full((len(batch), 1), np.nan, np.float32)
        dino.append(encoders.dino.embed(batch) if encoders.dino else unknown)
        scene.append(encoders.scenes.read(batch).astype(np.float32) if encoders.scenes else unknown)
        for picture in batch:
            found = encoders.faces.detect(picture)
            face = encoders.faces.describe(picture, found[0], found) if found else None
            faces.append({"face": face.embedding} if face else {})
            parts.append(encoders.parts.embed(picture, face) if face else {})
    embeddings = _stacked(faces, ("face",))[:, 0]
    return Features(
        np.concatenate(clip), np.concatenate(dino), embeddings, _stacked(parts, PARTS), np.concatenate(scene)
    )


def _stacked(rows: Sequence[Mapping[str, Floats]], names: Sequence[str]) -> Floats:
    """(K, len(names), D) of mappings that lack some of the names; NaN there."""
    width = next((len(vector) for row in rows for vector in row.values()), 1)
    table = np.full((len(rows), len(names), width), np.nan, np.float32)
    for row, found in enumerate(rows):
        for name, vector in found.items():
            table[row, names.index(name)] = vector
    return table


def load_encoders(
    studio: ConsistentIDPipeline, clip: str = "", dino: str = "", *, conditioned_judge: bool = False
) -> Encoders:
    """The encoders for the pictures of a preset.

    Args:
        studio: its preset names the judge, the detector and the parser.
        clip: hub id or folder of a CLIP model; by default ViT-L/14 for photos and the preset's own for drawings.
        dino: hub id or folder of a vision transformer; by default DINO ViT-S/16 for photos and none for drawings.
        conditioned_judge: allow a judge that is the recogniser which conditioned the model; it is then marked.

    Raises:
        InputError: the preset has no judge, or it conditioned the model.
        CheckpointError: weights are missing, or of another kind.
    """
    preset, device = studio.preset, studio.device
    marks = []
    judge_name, conditions = judge_of(preset, conditioned=conditioned_judge)
    if conditions:
        marks.append(f"the judge {judge_name} conditioned the model: likeness is flattered")
    parser: Any = studio.analyzer.parser
    parser.network.to(device)  # to stay there, unlike for a single picture
    faces = FaceAnalyzer(studio.analyzer.detector, studio.judge, parser)
    pair = _clip_of_preset(studio) if preset.drawings_only and not clip else _clip(clip or CLIP_OF_PHOTOS, device)
    if preset.drawings_only and not clip:
        marks.append("CLIP is the pair that conditions the model: CLIP-T and CLIP-I may flatter it")
    structure = _dino(dino or DINO_OF_PHOTOS, device) if dino or not preset.drawings_only else None
    parts = CroppedParts(structure) if structure else AlignedParts(studio.judge, judge_name)
    scenes = None
    if preset.scene_reader:
        with loading("scene_reader", preset.scene_reader):
            scenes = SceneReader(preset.scene_reader.fetch(), onnx_providers(studio.device))
    return Encoders(pair, structure, parts, faces, judge_name, scenes, tuple(marks))


def judge_of(preset: Preset, *, conditioned: bool = False) -> tuple[str, bool]:
    """Name of the judge, and whether it is the recogniser under any name.

    Raises:
        InputError: there is none, or it is the recogniser and that is not allowed.
    """
    if preset.judge is None:
        raise InputError(f"the preset {preset.name!r} has no judge; name a face recogniser with --judge FILE.onnx")
    judge = fingerprint(preset.judge.fetch())
    recogniser = preset.recogniser.find()
    same = recogniser is not None and judge.rpartition("@")[2] == fingerprint(recogniser).rpartition("@")[2]
    if same and not conditioned:
        raise InputError(
            f"the judge {judge} is the recogniser that conditioned the model, so its scores would flatter it; name"
            " another one with --judge FILE.onnx, or add --conditioned-judge to have the scores marked"
        )
    return judge, same


def _clip(source: str, device: torch.device) -> ClipEncoder:
    from transformers import AutoTokenizer, CLIPImageProcessorPil, CLIPModel

    with _reading("CLIP model", source, "--clip"):
        model, report = CLIPModel.from_pretrained(source, output_loading_info=True)
        processor, tokenizer = CLIPImageProcessorPil.from_pretrained(source), AutoTokenizer.from_pretrained(source)
    check_network(model, report["missing_keys"], f"the CLIP model {source}")
    bound_length(tokenizer, model)
    model.to(device).eval()
    return ClipEncoder(
        source,
        lambda pixels: model.visual_projection(model.vision_model(pixel_values=pixels).pooler_output),
        processor,
        lambda ids: model.text_projection(model.text_model(input_ids=ids).pooler_output),
        tokenizer,
        device,
    )


def _clip_of_preset(studio: ConsistentIDPipeline) -> ClipEncoder:
    """The pair of a preset that ships: its image encoder, and the text encoder of its base with a projection."""
    from transformers import CLIPTokenizer

    preset = studio.preset
    with loading("image_encoder", preset.image_encoder):
        vision, processor = load_image_encoder(preset.image_encoder, torch.float32)
    with loading("base", preset.base):
        tokenizer = CLIPTokenizer.from_pretrained(preset.base.fetch() / "tokenizer")
    pair = clip_of_preset(preset, vision.to(studio.device), processor, tokenizer, studio.device)
    if pair is None:
        raise CheckpointError(
            f"{preset.base} has no {TEXT_PROJECTION} beside its text encoder, so texts and pictures cannot be compared;"
            " name a model with --clip"
        )
    return pair


def _dino(source: str, device: torch.device) -> VisionEncoder:
    from transformers import AutoImageProcessor, AutoModel

    with _reading("vision transformer", source, "--dino"):
        model, report = AutoModel.from_pretrained(source, output_loading_info=True)
        processor = AutoImageProcessor.from_pretrained(source)
    # DINO has no pooler, and the class token is taken without it.
    missing = (x for x in report["missing_keys"] if not x.startswith("pooler."))
    check_network(model, missing, f"the vision transformer {source}")
    model.to(device).eval()
    return VisionEncoder(source, lambda pixels: model(pixel_values=pixels).last_hidden_state[:, 0], processor, device)


@contextmanager
def _reading(kind: str, source: str, option: str) -> Iterator[None]:
    """Errors of other libraries about a model that an option names as one that names both."""
    if Path(source).is_file():  # which libraries would read to its end
        raise CheckpointError(f"{source}: is a file, and no {kind}; give a hub id or a folder with {option}")
    try:
        yield
    except ConsistentIDError:
        raise
    except Exception as error:  # a broken file makes loaders raise nearly anything
        raise CheckpointError(
            f"{source}: no {kind} can be loaded from it ({first_line(error)}); give a hub id or a folder with {option}"
        ) from error
