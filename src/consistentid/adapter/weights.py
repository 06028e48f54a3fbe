"""`AdapterWeights`: the adapter's networks and values, loaded, saved, moved and trained; no pipeline is needed here."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Self

import torch
from torch import Tensor, nn

from consistentid.adapter import layouts, store
from consistentid.adapter.nn.facial_encoder import FacialEncoder
from consistentid.adapter.nn.image_projection import ImageProjection
from consistentid.adapter.prompt import FacialText
from consistentid.adapter.spec import AdapterSpec
from consistentid.errors import PipelineError
from consistentid.faces.parts import PARTS
from consistentid.files.devices import ordinary_tensors

if TYPE_CHECKING:
    from consistentid.adapter.identity import Identity


class AdapterWeights:
    """What is trained of ConsistentID; for the attributes see `ConsistentID`."""

    @ordinary_tensors()
    def __init__(self, spec: AdapterSpec) -> None:
        """Fresh weights for training; the layers in the UNet get theirs when first attached.

        Args:
            spec: sizes and habits.
        """
        self.spec = spec
        self.image_projection: ImageProjection = layouts.build_image_projection(spec)
        self.facial_encoder: FacialEncoder = layouts.build_facial_encoder(spec)
        # The UNet's layers borrow these very Parameters while attached, so training and saving see one set of values.
        self._layers: dict[str, nn.Parameter] = {}
        self._guessed_habits = False

    @classmethod
    @ordinary_tensors()
    def from_pretrained(
        cls,
        source: str | os.PathLike[str],
        weight_name: str | None = None,
        *,
        revision: str | None = None,
        spec: AdapterSpec | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> Self:
        """Loads a released checkpoint, a training dump or what `save_pretrained` wrote.

        Args:
            source: hub id, folder or file.
            weight_name: file within the repository or folder; not needed when it is clear.
            revision: branch, tag or commit on the hub.
            spec: sizes and habits to use instead of those found in the file or known of the released weights.
            dtype: of all weights.

        Raises:
            CheckpointError: nothing there, truncated, or of another layout; wrong entries are listed by name.
        """
        path = store.locate(source, weight_name, revision)
        loaded = store.read(path, spec)
        with torch.device("meta"):
            self = cls(loaded.spec)
        state: dict[str, dict[str, Tensor]] = {"image_projection": {}, "facial_encoder": {}, "attention": {}}
        for key, tensor in loaded.tensors.items():
            module, _, name = key.partition(".")
            state[module][name] = tensor.to(dtype)
        self.image_projection.load_state_dict(state["image_projection"], assign=True)
        self.facial_encoder.load_state_dict(state["facial_encoder"], assign=True)
        self._layers = {name: nn.Parameter(tensor) for name, tensor in state["attention"].items()}
        self._guessed_habits = loaded.guessed
        return self

    def save_pretrained(self, folder: str | os.PathLike[str], dtype: torch.dtype | None = None) -> None:
        """Writes `config.json` and `model.safetensors`, which `from_pretrained` reads; trained values included.

        Args:
            folder: made if it is not there.
            dtype: of the stored weights, as they are by default.

        Raises:
            PipelineError: a fresh adapter that was never attached has no layers to save.
            InputError: the folder cannot be written.
        """
        if not self._layers:
            raise PipelineError("nothing to save: the layers in the UNet are made by attach(pipe), call it first")
        store.write_folder(
            Path(folder), self.spec, {name: tensor.to(dtype) for name, tensor in self.state_dict().items()}
        )

    def state_dict(self) -> dict[str, Tensor]:
        """All weights by name, those that live in the UNet included, as `checkpoint` lays them out."""
        modules = {"image_projection": self.image_projection, "facial_encoder": self.facial_encoder}
        state = {f"{m}.{name}": tensor for m, module in modules.items() for name, tensor in module.state_dict().items()}
        return state | {f"attention.{name}": parameter.detach() for name, parameter in self._layers.items()}

    def parameter_groups(self) -> dict[str, list[nn.Parameter]]:
        """Every trainable parameter, as "image_projection", "facial_encoder", "ip_layers" and "lora".

        The last two are empty for a fresh adapter until it is attached; they stay the same objects from then on.
        """
        return {
            "image_projection": list(self.image_projection.parameters()),
            "facial_encoder": list(self.facial_encoder.parameters()),
            "ip_layers": [x for name, x in self._layers.items() if "_ip." in name],
            "lora": [x for name, x in self._layers.items() if "_lora." in name],
        }

    @ordinary_tensors()
    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> Self:
        """Moves `image_projection` and `facial_encoder`; the layers in the UNet go where the UNet goes.

        `inputs` needs no move: it computes where the pipeline does.
        """
        for module in (self.image_projection, self.facial_encoder):
            module.to(device=device, dtype=dtype)
        return self

    def _use_spec(self, spec: AdapterSpec) -> None:
        self.spec = spec
        self.image_projection.shortcut = spec.shortcut

    # --------------------------------------------------------------------------------- building blocks, differentiable

    def id_tokens(self, embedding: Tensor, face_features: Tensor) -> Tensor:
        """ID tokens (B, tokens, D) of embeddings (B, id_dim) and whole-face features (B, L, clip_dim).

        Zero embeddings with the features of an all-zero image give the unconditional tokens.
        """
        weight = self.image_projection.norm.weight
        tokens: Tensor = self.image_projection(embedding.to(weight), face_features.to(weight))
        return tokens

    def fuse(self, text: Tensor, parts: Tensor, token_mask: Tensor, part_mask: Tensor) -> Tensor:
        """Text (B, T, D) with parts (B, N, L, clip_dim) fused in where `token_mask` (B, T) is true; never in place.

        `part_mask` (B, N) says which parts to use, in the order of their words: see `arrange`.
        """
        weight = self.facial_encoder.fuse_module.layer_norm.weight
        masks = (mask.to(weight.device) for mask in (token_mask, part_mask))
        fused: Tensor = self.facial_encoder(text.to(weight.device), parts.to(weight), *masks)
        return fused.to(text.device)

    @staticmethod
    def arrange(texts: Sequence[FacialText], part_features: Tensor, context: int = 77) -> tuple[Tensor, Tensor, Tensor]:
        """What `fuse` needs for a batch of composed texts.

        Args:
            texts: B texts of `prompt.compose`.
            part_features: (B, N, L, clip_dim) in order of `PARTS`.
            context: length T of the text embedding.

        Returns:
            parts (B, N, L, clip_dim) in the order of the words, token_mask (B, T) and part_mask (B, N).
        """
        batch, number = part_features.shape[:2]
        order = torch.zeros(batch, number, dtype=torch.long)
        token_mask = torch.zeros(batch, context, dtype=torch.bool)
        part_mask = torch.zeros(batch, number, dtype=torch.bool)
        for row, text in enumerate(texts):
            order[row, : len(text.pictures)] = torch.tensor([PARTS.index(x) for x in text.pictures], dtype=torch.long)
            token_mask[row, list(text.positions)] = True
            part_mask[row, : len(text.positions)] = True
        rows = torch.arange(batch).unsqueeze(1)
        return part_features[rows, order], token_mask, part_mask

    def people_tokens(self, people: Sequence[Identity], guided: bool) -> Tensor:
        """ID tokens (1, P, tokens, D) of P people; under guidance (2, ...), the unconditional ones first.

        Pipelines repeat them for every picture of the batch.
        """
        embedding = torch.stack([x.embedding for x in people])
        tokens = self.id_tokens(embedding, torch.stack([x.face_features for x in people]))
        if not guided:
            return tokens.unsqueeze(0)
        blank = torch.stack([x.blank_features for x in people])
        return torch.stack([self.id_tokens(torch.zeros_like(embedding), blank), tokens])
