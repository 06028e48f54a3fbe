"""What a set of adapter weights expects: sizes of its networks, and the habits it was trained with, as plain data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Annotated, Any, Literal

from consistentid.errors import CheckpointError
from consistentid.files.config import Between, build

PHRASES = {"face": "one face", "eyes": "two eyes", "ears": "two ears", "nose": "one nose", "mouth": "one mouth"}
"""The facial sentence when none is given: part -> phrase, in the order of the sentence."""

_Size = Annotated[int, Between(1, 1 << 16)]
_Depth = Annotated[int, Between(1, 256)]
_Rank = Annotated[int, Between(0, 1 << 16)]


@dataclass(frozen=True)
class AdapterSpec:
    """Sizes and habits of one set of adapter weights; stored as `config.json` beside them.

    Sizes
        id_dim: width of the face embedding.
        clip_dim: width of the image encoder's hidden states.
        text_dim: width of the UNet's cross-attention (all text encoders together).
        tokens: number of ID tokens.
        dim_head: width of one attention head in both perceivers.
        id_hidden, id_depth, id_heads: hidden layer and perceiver of the image projection.
        facial_dim, facial_depth, facial_heads: perceiver of the facial encoder.
        lora_rank: rank of the LoRA on q, k, v, out of every attention layer (alpha = rank); 0 = none.
        shortcut: the image projection adds the unresampled tokens.

    Habits (the defaults are for weights that this project trains; `released` gives those of the published weights)
        part_layout: how a part's picture is made: "square" = crop around the part, "canvas" = black full-size canvas.
        canvas_size: side of the square on which "canvas" fills the parts' outlines; "square" does not use it.
        swapped_parts: two parts whose pictures go to each other's word when both are used; empty = each its own.
        fuse_negative: the negative text is fused with blank pictures at the positions of the positive one.
        separator: text between the prompt and the facial sentence.
        phrases: the facial sentence when none is given, see `PHRASES`.
        clauses: the sentence is rewritten as clauses in the order of `phrases`, each ended by a comma, without
            those that name unseen parts only, and the separator stands even before an empty sentence.
        plain_sentence: the plain text of the first steps contains the facial sentence.
        marker: literal text that the second text encoder reads after each fused word; empty = none.

    networks
        Names of the networks that identities must come from ("recogniser", "image_encoder", "parser"), see
        `Identity.check_networks`; may be empty.
    """

    id_dim: _Size = 512
    clip_dim: _Size = 1280
    text_dim: _Size = 768
    tokens: _Size = 4
    dim_head: _Size = 64
    id_hidden: _Size = 1024
    id_depth: _Depth = 4
    id_heads: _Size = 12
    facial_dim: _Size = 1024
    facial_depth: _Depth = 8
    facial_heads: _Size = 16
    lora_rank: _Rank = 128
    shortcut: bool = False

    part_layout: Literal["canvas", "square"] = "square"
    canvas_size: _Size = 512
    swapped_parts: tuple[str, ...] = ()
    fuse_negative: bool = False
    separator: str = ", "
    phrases: Mapping[str, str] = field(default_factory=lambda: dict(PHRASES))
    clauses: bool = False
    plain_sentence: bool = True
    marker: str = ""

    networks: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def released(cls, base: Literal["sd15", "sdxl"], **sizes: Any) -> AdapterSpec:
        """Spec of the published weights for one family of base models; `sizes` are read from the weights."""
        return cls(**(_RELEASED[base] | sizes))

    def as_released(self, base: Literal["sd15", "sdxl"]) -> AdapterSpec:
        """These sizes with the habits of the published weights for another family."""
        return replace(self, **_RELEASED[base])

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self) | {"swapped_parts": list(self.swapped_parts)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> AdapterSpec:
        """The inverse of `to_dict`; entries left out have their default.

        Raises:
            CheckpointError: an entry is not a field of the spec, or its value is not of the field's kind.
        """
        spec = build(cls, values, "the adapter's config", error=CheckpointError)
        if set(spec.phrases) != set(PHRASES) or len(spec.swapped_parts) not in (0, 2):
            raise CheckpointError(
                f"the adapter's config must have phrases for {', '.join(PHRASES)} and two swapped_parts or none"
            )
        return spec


_RELEASED_PHRASES = {part: PHRASES[part] for part in ("face", "ears", "eyes", "nose", "mouth")}
_RELEASED_BOTH: dict[str, Any] = {
    "part_layout": "canvas",
    "swapped_parts": ("eyes", "ears"),
    "fuse_negative": True,
    "clauses": True,
    "networks": {"recogniser": "w600k_r50", "image_encoder": "CLIP-ViT-H-14-laion2B-s32B-b79K"},
}
_RELEASED: dict[str, dict[str, Any]] = {
    "sd15": _RELEASED_BOTH
    | {
        "separator": "Detail:",
        "phrases": _RELEASED_PHRASES,
        "plain_sentence": True,
        "marker": "",
        "canvas_size": 512,
        "shortcut": False,
    },
    "sdxl": _RELEASED_BOTH
    | {
        "separator": "; Detail:",
        "phrases": _RELEASED_PHRASES | {"mouth": "a mouth"},
        "plain_sentence": False,
        "marker": "<|facial|>",
        "canvas_size": 1280,
        "shortcut": True,
    },
}
