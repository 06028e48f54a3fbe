"""`Identity`: what is kept of a person, and the file that holds it."""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from types import MappingProxyType
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as from_safetensors
from safetensors.torch import save as to_safetensors
from torch import Tensor
from torch.nn.functional import normalize

from consistentid.errors import CheckpointError, IncompatibleIdentityError, InputError
from consistentid.faces.parts import PARTS
from consistentid.files.devices import ordinary_tensors
from consistentid.files.reading import parse_json, read_bytes
from consistentid.files.writing import replacing

_FORMAT = "consistentid-identity-1"
_REMEDY = "make it again with `consistentid identify PHOTO --out FILE`"
_TENSORS = ("embedding", "face_features", "part_features", "part_mask", "blank_features")


@dataclass(frozen=True, eq=False)
class Identity:
    """One person as the adapter sees them; no photo can be recovered as pixels from it.

    All tensors are float32 on the CPU, except the mask.

    Attributes:
        embedding: (id_dim,) face-recognition embedding of unit length.
        face_features: (L, clip_dim) penultimate hidden state of the CLIP image encoder for the whole reference picture.
        part_features: (N, L, clip_dim) the same for each part in order of `PARTS`; a part that was not visible
            holds `blank_features`.
        part_mask: (N,) bool, which parts were visible.
        blank_features: (L, clip_dim) the same encoder on an all-zero pixel tensor, for the unconditional branch.
        provenance: "recogniser", "image_encoder" and "parser" as ``name@sha256-prefix``, and "part_layout".
        face_text: a sentence about the parts of the face; empty = none was written.

    Raises:
        InputError: shapes that do not fit together.
    """

    embedding: Tensor
    face_features: Tensor
    part_features: Tensor
    part_mask: Tensor
    blank_features: Tensor
    provenance: Mapping[str, str]
    face_text: str = ""

    @ordinary_tensors()
    def __post_init__(self) -> None:
        for name in _TENSORS:
            dtype = torch.bool if name == "part_mask" else torch.float32
            given = getattr(self, name).detach()
            given = given.clone() if given.is_inference() else given
            object.__setattr__(self, name, given.to("cpu", dtype))
        # in one order, as a file keeps none, and the records in pictures are the same to the byte
        object.__setattr__(self, "provenance", MappingProxyType(dict(sorted(self.provenance.items()))))
        features = tuple(self.face_features.shape)
        expected = {"part_features": (len(PARTS), *features), "part_mask": (len(PARTS),), "blank_features": features}
        found = {name: tuple(getattr(self, name).shape) for name in expected}
        if self.embedding.ndim != 1 or len(features) != 2 or found != expected:
            raise InputError(
                "tensors of an identity do not fit together: "
                f"embedding {tuple(self.embedding.shape)} must be (id_dim,), "
                f"face_features {features} must be (L, clip_dim), the others {found} must be {expected}"
            )

    def __reduce__(self) -> tuple[Any, ...]:
        values = {item.name: getattr(self, item.name) for item in fields(self)}
        return _identity, (values | {"provenance": dict(self.provenance)},)  # a read-only view of one cannot be pickled

    @property
    def visible_parts(self) -> tuple[str, ...]:
        """Names of the parts that were seen, in order of `PARTS`."""
        return tuple(part for part, visible in zip(PARTS, self.part_mask.tolist(), strict=True) if visible)

    def to_bytes(self) -> bytes:
        """What `save` writes."""
        tensors = {name: getattr(self, name).contiguous().clone() for name in _TENSORS}
        for name in ("face_features", "part_features", "blank_features"):
            if tensors[name].abs().amax() <= torch.finfo(torch.float16).max:
                tensors[name] = tensors[name].half()
        data: bytes = to_safetensors(
            tensors, metadata={**self.provenance, "face_text": self.face_text, "format": _FORMAT}
        )
        return data

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the identity as safetensors (features in float16 where their range allows), never half a file.

        Raises:
            InputError: the file cannot be written.
        """
        with replacing(path, private=True) as temporary:  # it tells who somebody is
            temporary.write_bytes(self.to_bytes())

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Identity:
        """Read what `save` wrote.

        Raises:
            CheckpointError: the file is missing, truncated, or not an identity.
        """
        try:
            data = read_bytes(path, what="identity")
        except InputError as error:
            raise CheckpointError(f"{error}; {_REMEDY}") from None
        return cls.from_bytes(data, str(path))

    @classmethod
    def from_bytes(cls, data: bytes, name: str = "the identity") -> Identity:
        """What `load` reads; `name` stands for the file in messages.

        Raises:
            CheckpointError: truncated, or not an identity.
        """
        try:
            tensors = from_safetensors(data)
            head = parse_json(data[8 : 8 + int.from_bytes(data[:8], "little")], name, kind=dict)
        except (ValueError, KeyError, SafetensorError) as error:  # KeyError: a number format that torch lacks
            raise CheckpointError(f"{name} is not a readable safetensors file ({error}); {_REMEDY}") from error
        metadata = dict(head.get("__metadata__") or {})
        if (found := metadata.pop("format", None)) != _FORMAT:
            raise CheckpointError(f"{name} is not an identity (format {found!r} instead of {_FORMAT!r}); {_REMEDY}")
        if set(tensors) != set(_TENSORS):
            raise CheckpointError(f"{name} holds {sorted(tensors)} instead of {sorted(_TENSORS)}; {_REMEDY}")
        if broken := [key for key, tensor in tensors.items() if not tensor.float().isfinite().all()]:
            raise CheckpointError(f"{name} holds values that are not finite in {broken}; {_REMEDY}")
        try:
            return cls(**tensors, face_text=metadata.pop("face_text", ""), provenance=metadata)
        except InputError as error:
            raise CheckpointError(f"{name}: {error}; {_REMEDY}") from error

    @classmethod
    def blend(cls, identities: Sequence[Identity], weights: Sequence[float] | None = None) -> Identity:
        """A person between several: weighted mean of features, unit-length weighted mean of embeddings.

        Args:
            identities: at least one, all made by the same networks.
            weights: one non-negative number each, of any positive sum; equal shares by default.
                A part is averaged over the identities that show it.

        Returns:
            A person without `face_text`: no sentence describes the mixture.

        Raises:
            InputError: no identities, or weights that do not fit.
            IncompatibleIdentityError: identities made by different networks.
        """
        if not identities:
            raise InputError("nothing to blend: give at least one identity")
        shares = torch.tensor([1.0] * len(identities) if weights is None else list(weights), dtype=torch.float32)
        if len(shares) != len(identities) or not shares.isfinite().all() or (shares < 0).any() or shares.sum() <= 0:
            raise InputError(
                f"weights {weights} do not fit {len(identities)} identities: "
                "give one non-negative number each, not all zero"
            )
        for other in identities[1:]:
            identities[0].check_networks(other.provenance)
        shares = shares / shares.sum()
        masks = torch.stack([identity.part_mask for identity in identities]) & (shares[:, None] > 0)
        part_shares = shares[:, None] * masks
        part_shares = part_shares / part_shares.sum(dim=0).clamp_min(torch.finfo(torch.float32).tiny)
        blank = _mean([identity.blank_features for identity in identities], shares)
        parts = torch.einsum("kn,knld->nld", part_shares, torch.stack([i.part_features for i in identities]))
        mask = masks.any(dim=0)
        return cls(
            embedding=normalize(_mean([identity.embedding for identity in identities], shares), dim=0),
            face_features=_mean([identity.face_features for identity in identities], shares),
            part_features=torch.where(mask[:, None, None], parts, blank),
            part_mask=mask,
            blank_features=blank,
            provenance=identities[0].provenance,
        )

    def with_parts(self, **parts: Identity) -> Identity:
        """The same person with single parts of others, without `face_text`: ``ada.with_parts(eyes=bob)``.

        Raises:
            InputError: a name that is not in `PARTS`, or a part that the other identity does not show.
            IncompatibleIdentityError: identities made by different networks.
        """
        features, mask = self.part_features.clone(), self.part_mask.clone()
        for part, other in parts.items():
            if part not in PARTS:
                raise InputError(f"unknown part {part!r}; known parts are {', '.join(PARTS)}")
            if part not in other.visible_parts:
                raise InputError(
                    f"the other identity does not show its {part}; it shows {', '.join(other.visible_parts)}"
                )
            self.check_networks(other.provenance)
            index = PARTS.index(part)
            features[index], mask[index] = other.part_features[index], True
        return replace(self, part_features=features, part_mask=mask, face_text="")

    def check_networks(self, expected: Mapping[str, str], *, warn: bool = True) -> None:
        """Make sure that this identity comes from the networks expected.

        Args:
            expected: provenance key -> ``name@hash``, or a bare ``name`` that any version satisfies; empty = unknown.
                Copies of a network bear other names, so a hash decides where both have one, and another name than a
                bare one is a `UserWarning`.
            warn: whether to say so.

        Raises:
            IncompatibleIdentityError: a network differs; the message names both.
        """
        wrong: list[str] = []
        doubtful: list[str] = []
        for key, wanted in expected.items():
            found = self.provenance.get(key, "")
            (name, _, digest), wanted_digest = found.partition("@"), wanted.partition("@")[2]
            if not wanted or (digest == wanted_digest if digest and wanted_digest else name == wanted):
                continue
            named_only = not wanted_digest and key != "part_layout"
            (doubtful if named_only else wrong).append(f"{key}: this identity has {found or 'none'}, expected {wanted}")
        if wrong:
            raise IncompatibleIdentityError(
                f"the identity was made by other networks ({'; '.join(wrong)}); "
                "identify the photo again with this preset"
            )
        if doubtful and warn:
            warnings.warn(
                f"the identity seems to be made by other networks than the adapter was trained with"
                f" ({'; '.join(doubtful)}); unless that is the same under another name, the pictures show nobody in"
                " particular: identify the photo with those",
                stacklevel=2,
            )


def _identity(values: Mapping[str, Any]) -> Identity:
    return Identity(**values)


def _mean(tensors: Sequence[Tensor], shares: Tensor) -> Tensor:
    return torch.einsum("k,k...->...", shares, torch.stack(list(tensors)))
