"""`IdentityEncoder`: from photos of a person to their `Identity` (paper, sections 3.2 and 3.3)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from consistentid.adapter.identity import Identity
from consistentid.faces.analyzer import FaceAnalyzer, surroundings
from consistentid.faces.caption import Captioner
from consistentid.faces.parts import PARTS, PartLayout, part_areas, part_pictures
from consistentid.faces.sight import Sight, look
from consistentid.files.weights import Versions


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
        self._blank: tuple[Versions, Tensor] | None = None

    def encode(
        self,
        *images: Image.Image,
        names: Sequence[str] | None = None,
        face_index: int | Sequence[int | None] | None = None,
        captioner: Captioner | None = None,
    ) -> Identity:
        """The person that all pictures show: `look`, then `combine`; arguments and errors as theirs."""
        sights = look(self.analyzer, images, names=names, face_index=face_index, same_person=self.same_person)
        return self.combine(sights, captioner)

    def combine(self, sights: Sequence[Sight], captioner: Captioner | None = None) -> Identity:
        """The person of whom these are sights.

        The embedding is the mean of all faces weighted by quality, the whole picture is that of the best face, each
        part comes from the picture that shows it best.

        Args:
            sights: at least one.
            captioner: writes the identity's `face_text` from the best picture; none = no sentence.
        """
        embeddings = np.stack([sight.face.embedding for sight in sights])
        qualities = np.array([sight.face.quality for sight in sights], np.float32)
        main = max(sights, key=lambda sight: sight.face.quality)
        pictures = best_parts(sights, self.part_layout, self.canvas_size)
        *parts, whole, blank = self.features([*pictures.values(), main.portrait])
        seen = dict(zip(pictures, parts, strict=True))
        face_text = ""
        if captioner:
            head = main.portrait.crop(surroundings(main.there, main.portrait.size))
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

    @torch.no_grad()  # not inference mode: training differentiates through functions of these
    def features(self, pictures: Sequence[Image.Image]) -> Tensor:
        """(len(pictures) + 1, L, clip_dim) float32 penultimate hidden states, in one batch.

        The last row is for an all-zero pixel tensor: it is computed once, and again only where weights have changed.
        """
        pixels = self.processor(images=list(pictures), return_tensors="pt")["pixel_values"]
        weights = next(self.image_encoder.parameters())
        made_by = Versions.of(self.image_encoder)
        known = self._blank is not None and made_by == self._blank[0]
        if not known:
            pixels = torch.cat([pixels, torch.zeros_like(pixels[:1])])
        output = self.image_encoder(pixels.to(weights.device, weights.dtype), output_hidden_states=True)
        features: Tensor = output.hidden_states[-2].float().cpu()
        if self._blank is not None and known:
            return torch.cat([features, self._blank[1]])
        self._blank = made_by, features[-1:].clone()
        return features


def best_parts(sights: Sequence[Sight], layout: PartLayout, canvas_size: int) -> dict[str, Image.Image]:
    """The picture of each visible part, as CLIP gets it, from the sight that shows most of it, and best.

    Args:
        sights: of a person.
        layout, canvas_size: see `part_pictures`.
    """
    best: dict[str, tuple[float, Image.Image]] = {}
    for sight in sights:
        areas = part_areas(sight.there.parsing, layout)
        pictures = part_pictures(sight.portrait, sight.there.parsing, layout, canvas_size)
        for part in pictures.keys() & areas.keys():
            worth = sight.face.quality * (areas[part] / sight.face.area) ** 0.5
            if part not in best or worth > best[part][0]:
                best[part] = worth, pictures[part]
    return {part: best[part][1] for part in PARTS if part in best}
