"""`IdentityEncoder`: from photos of a person to their `Identity` (paper, sections 3.2 and 3.3)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from consistentid.adapter.identity import Identity
from consistentid.errors import FaceError, InputError, PhotographError
from consistentid.faces.analyzer import Face, FaceAnalyzer, pick, surroundings
from consistentid.faces.caption import Captioner
from consistentid.faces.parts import PARTS, PartLayout, part_areas, part_pictures
from consistentid.faces.portrait import portrait


@dataclass(frozen=True, eq=False)
class _View:
    """The square portrait of the person on one photo."""

    name: str
    image: Image.Image
    face: Face


class IdentityEncoder:
    """Makes an `Identity` of one or more photos of a person.

    Args:
        analyzer: finds, recognises and parses faces.
        image_encoder: a CLIP vision model of transformers.
        processor: its `CLIPImageProcessorPil` (the other variants depend on what is installed and differ in rounding).
        part_layout: how part pictures are made, see `part_pictures`.
        canvas_size: see `part_pictures`.
        provenance: "recogniser", "image_encoder" and "parser" as `fingerprint` names them.
        same_person: cosine of two embeddings from which they are taken for one person.
    """

    def __init__(
        self,
        analyzer: FaceAnalyzer,
        image_encoder: nn.Module,
        processor: Any,
        part_layout: PartLayout = "square",
        canvas_size: int = 512,
        provenance: Mapping[str, str] | None = None,
        same_person: float = 0.2,
    ) -> None:
        self.analyzer = analyzer
        self.image_encoder = image_encoder
        self.processor = processor
        self.part_layout: PartLayout = part_layout
        self.canvas_size = canvas_size
        self.provenance = {**(provenance or {}), "part_layout": part_layout}
        self.same_person = same_person

    def encode(
        self,
        *images: Image.Image,
        names: Sequence[str] | None = None,
        face_index: int | Sequence[int | None] | None = None,
        captioner: Captioner | None = None,
    ) -> Identity:
        """The person that all pictures show.

        The embedding is the mean of all faces weighted by quality, the whole picture is that of the best face, each
        part comes from the picture that shows it best.

        Args:
            images: RGB pictures of one person.
            names: of the pictures, for messages; "picture 1", ... by default.
            face_index: which face, largest first, where a picture has several: one for all pictures or one for each.
            captioner: writes the identity's `face_text` from the best picture; none = no sentence.

        Raises:
            InputError: no pictures, or names or indices that do not fit them.
            NoFaceError, SeveralFacesError: a picture without a clear choice.
            FaceError: a picture of another person than the others.
            PhotographError: see `FaceAnalyzer.analyze`.
        """
        if not images:
            raise InputError("no pictures to identify; give at least one")
        names = names if names is not None else [f"picture {number}" for number in range(1, len(images) + 1)]
        indices = [face_index] * len(images) if face_index is None or isinstance(face_index, int) else face_index
        if not len(names) == len(indices) == len(images):
            raise InputError(f"{len(images)} pictures, {len(names)} names and {len(indices)} face indices do not fit")
        views = [self._view(*photo) for photo in zip(names, images, indices, strict=True)]
        embeddings = np.stack([view.face.embedding for view in views])
        qualities = np.array([view.face.quality for view in views], np.float32)
        if strangers := outliers(embeddings, self.same_person, qualities):
            named = " and ".join(views[index].name for index in strangers)
            alone = len(strangers) == len(views)
            what = "show different people" if alone else "not of the person on the other pictures"
            raise FaceError(
                f"{named}: {what}; leave out what is not meant, choose the right face by index,"
                f" or lower the preset's same_person ({self.same_person:g})"
            )
        main = max(views, key=lambda view: view.face.quality)
        pictures = self._best_parts(views)
        *parts, whole, blank = self.features([*pictures.values(), main.image])
        seen = dict(zip(pictures, parts, strict=True))
        face_text = ""
        if captioner:
            head = main.image.crop(surroundings(main.face, main.image.size))
            face_text = captioner.describe_faces([head])[0]
        mean = qualities @ embeddings
        return Identity(
            embedding=torch.from_numpy(mean / np.linalg.norm(mean)),
            face_features=whole,
            part_features=torch.stack([seen.get(part, blank) for part in PARTS]),
            part_mask=torch.tensor([part in seen for part in PARTS]),
            blank_features=blank,
            provenance=self.provenance,
            face_text=face_text,
        )

    def _view(self, name: str, image: Image.Image, index: int | None) -> _View:
        try:
            detections = self.analyzer.detect(image)
        except PhotographError as error:
            raise PhotographError(f"{name}: {error}") from None
        face = self.analyzer.describe(image, pick(detections, name, index), detections)
        return _View(name, *portrait(image, face, detections))

    def _best_parts(self, views: Sequence[_View]) -> dict[str, Image.Image]:
        """The picture of each visible part from the view that shows most of it, and best."""
        best: dict[str, tuple[float, Image.Image]] = {}
        for view in views:
            areas = part_areas(view.face.parsing, self.part_layout)
            pictures = part_pictures(view.image, view.face.parsing, self.part_layout, self.canvas_size)
            for part, picture in pictures.items():
                worth = view.face.quality * (areas[part] / view.face.area) ** 0.5
                if part not in best or worth > best[part][0]:
                    best[part] = worth, picture
        return {part: best[part][1] for part in PARTS if part in best}

    @torch.no_grad()  # not inference mode: training differentiates through functions of these
    def features(self, pictures: Sequence[Image.Image]) -> Tensor:
        """(len(pictures) + 1, L, clip_dim) penultimate hidden states, the last row for an all-zero pixel tensor."""
        pixels = self.processor(images=list(pictures), return_tensors="pt")["pixel_values"]
        pixels = torch.cat([pixels, torch.zeros_like(pixels[:1])])
        weights = next(self.image_encoder.parameters())
        output = self.image_encoder(pixels.to(weights.device, weights.dtype), output_hidden_states=True)
        features: Tensor = output.hidden_states[-2]
        return features


def outliers(
    embeddings: NDArray[np.float32], same_person: float, weights: NDArray[np.float32] | None = None
) -> list[int]:
    """Which faces are not of the person that most of them show.

    A face is of the person when it is like a quarter of the others that are. To ask for one would let strangers in
    among many, for each is by chance like some; to ask for all would refuse an unusual pose.

    Args:
        embeddings: (N, D) of unit length, N > 0.
        same_person: cosine of two embeddings from which they are taken for one person.
        weights: (N,), how much each face counts for who is meant; all alike by default.

    Returns:
        Indices, in order; empty when all faces are of one person, and all when no two of several belong together.
    """
    alike = embeddings @ embeddings.T >= same_person
    np.fill_diagonal(alike, True)
    # The face that is like most others is of the person, and so are, to begin with, those it is like.
    middle = np.argmax(alike.sum(axis=1) if weights is None else alike @ weights)
    others = alike[middle] & ~np.eye(len(alike), dtype=bool)
    odd = (alike & others).sum(axis=1) < others.sum(axis=1) / 4
    odd[middle] = odd.sum() == len(odd) - 1 > 0
    return np.flatnonzero(odd).tolist()
