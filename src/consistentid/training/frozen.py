"""The frozen networks of a training: base, image encoder and recogniser; what they compute, kept on disk or not."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cached_property, lru_cache
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from consistentid.adapter import encoding
from consistentid.adapter.prompt import Count, FacialText
from consistentid.errors import DatasetError, InputError
from consistentid.faces.analyzer import Detector
from consistentid.faces.differentiable import DifferentiableOnnx
from consistentid.faces.onnx import onnx_providers
from consistentid.faces.recognition import OnnxRecogniser
from consistentid.files.weights import fingerprint
from consistentid.presets.loading import load_base, load_detector, load_image_encoder, loading, network_name
from consistentid.presets.network import Network
from consistentid.presets.preset import Preset
from consistentid.presets.read import load_preset
from consistentid.training.cache import Cache
from consistentid.training.config import TrainConfig
from consistentid.training.sources import Picture
from consistentid.training.state import weights_digest


class Preparation:
    """What is made of pictures before the networks of torch see them. It can be sent to worker processes.

    Args:
        processor: the image encoder's.
        recogniser: makes the embeddings that a source has not.
        asked: ONNX files of other recognisers that a loss asks; empty for the recogniser alone.
    """

    def __init__(self, processor: Any, recogniser: Network, asked: Sequence[Path]) -> None:
        self._processor, self._network, self._asked = processor, recogniser, tuple(asked)
        self._sessions: dict[Path, OnnxRecogniser] = {}

    def __getstate__(self) -> dict[str, Any]:
        return vars(self) | {"_sessions": {}}  # each process opens its own

    def preprocessed(self, pictures: Sequence[Image.Image]) -> Tensor:
        """Pictures as the image encoder wants them (B, 3, S, S)."""
        pixels: Tensor = self._processor(images=list(pictures), return_tensors="pt")["pixel_values"]
        return pixels

    def embedding(self, picture: Picture, key: str) -> Tensor:
        """(D,) float32: the picture's own embedding, or one computed from its landmarks.

        Raises:
            DatasetError: it has neither.
        """
        if picture.embedding is None:
            return self._embedded(self._network.fetch(), picture, key)
        return torch.from_numpy(np.array(picture.embedding, np.float32))

    def wanted(self, picture: Picture, key: str) -> Tensor:
        """(K, D) float32: what each recogniser that a loss asks says of a picture with landmarks."""
        if not self._asked:
            return self.embedding(picture, key)[None]
        return torch.stack([self._embedded(file, picture, key) for file in self._asked])

    def _embedded(self, file: Path, picture: Picture, key: str) -> Tensor:
        if picture.landmarks is None:
            raise DatasetError(
                f"{key} has no landmarks, nor what was to be computed from them; make the data set with"
                " 'consistentid dataset build'"
            )
        if file not in self._sessions:
            self._sessions[file] = OnnxRecogniser(file, onnx_providers("cpu"))  # many processes share no GPU
        return torch.from_numpy(self._sessions[file].embed(Image.fromarray(picture.pixels), picture.landmarks))


class FrozenNetworks:
    """The networks of the recipe's preset. What they give is half precision, so that keeping it changes nothing.

    Args:
        config: names preset, networks, precision and what to keep.
        folder: of what is kept.
        device: where to compute.

    Raises:
        InputError, CheckpointError: a network is not there, or is none of its kind.
    """

    def __init__(self, config: TrainConfig, folder: Path, device: torch.device) -> None:
        self.preset: Preset = load_preset(config.preset).override(**config.networks)
        self.device, self._folder, self._kept = device, folder, config.cache
        self._asked = config.asked_recognisers
        self._size = config.size
        self._reader = config.latent_reader if config.scene_weight else None
        dtype = torch.bfloat16 if config.precision == "bfloat16" else torch.float32
        with loading("base", self.preset.base):
            self.pipe = load_base(self.preset, int(config.spec.get("text_dim", 768)), dtype).to(device)
        self.pipe.set_progress_bar_config(disable=True)
        self.pipe.vae.float()  # half precision spoils latents
        with loading("image_encoder", self.preset.image_encoder):
            self.image_encoder, self.processor = load_image_encoder(self.preset.image_encoder, dtype)
        self.image_encoder.to(device)
        self.preparation = Preparation(self.processor, self.preset.recogniser, self._asked)
        for module in (self.pipe.unet, self.pipe.vae, *self._text_encoders):
            module.requires_grad_(False)
        self.count = _word_by_word(encoding.token_counter(self.pipe))
        self.limit = encoding.context_length(self.pipe)

    @property
    def _text_encoders(self) -> list[Any]:
        return [self.pipe.text_encoder, *([self.pipe.text_encoder_2] if encoding.is_xl(self.pipe) else [])]

    @property
    def _tokenizers(self) -> list[Any]:
        return [self.pipe.tokenizer, *([self.pipe.tokenizer_2] if encoding.is_xl(self.pipe) else [])]

    @cached_property
    def differentiable_recognisers(self) -> list[DifferentiableOnnx]:
        """The recognisers of the identity loss."""
        found = []
        for path in self._asked or [self.preset.recogniser.fetch()]:
            with loading("recogniser", Network(path=path)):
                found.append(DifferentiableOnnx(path).to(self.device))
        return found

    @cached_property
    def detector(self) -> Detector:
        """The preset's own, which finds faces on pictures that a training samples."""
        return load_detector(self.preset, self.device)

    @cached_property
    def latent_reader(self) -> DifferentiableOnnx | None:
        """The network of the scene loss, where the recipe has one.

        Raises:
            InputError: it reads no latents of this base at this size.
        """
        if self._reader is None:
            return None
        with loading("latent_reader", Network(path=self._reader)):
            found = DifferentiableOnnx(self._reader).to(self.device)
        side = self._size // self.pipe.vae_scale_factor
        needed = (self.pipe.unet.config.in_channels, side, side)
        if found.takes != needed:
            raise InputError(
                f"latent_reader {self._reader} takes {found.takes}, and this base has latents of {needed}; train one"
                " for it with the stage latent_reader, or set scene_weight to 0"
            )
        return found

    @cached_property
    def provenance(self) -> dict[str, str]:
        """Names of the networks that identities for the trained adapter must come from."""
        roles = ("recogniser", "image_encoder", "parser")
        names = {role: network_name(self.preset.networks[role]) for role in roles}
        return {role: name for role, name in names.items() if name}

    # ------------------------------------------------------------------------------------------------- what they give

    def latents(self, pixels: Tensor) -> Tensor:
        """Scaled latents (B, C, h, w) half of pictures (B, 3, H, W) in [-1, 1]."""
        with torch.no_grad():
            z = self.pipe.vae.encode(pixels.to(self.device), return_dict=False)[0].mean
        scaled: Tensor = z * self.pipe.vae.config.scaling_factor
        return _stored(scaled)

    def features(self, pixels: Tensor) -> Tensor:
        """Penultimate hidden states (B, L, D) half of preprocessed pictures (B, 3, S, S)."""
        with torch.no_grad():
            given = pixels.to(self.device, self.image_encoder.dtype)
            states: Tensor = self.image_encoder(given, output_hidden_states=True).hidden_states[-2]
        return _stored(states)

    @cached_property
    def blank(self) -> Tensor:
        """Features (L, D) of nothing: an all-zero picture, as identities have it."""
        return self.features(torch.zeros_like(self.preparation.preprocessed([Image.new("RGB", (64, 64))])))[0]

    @cached_property
    def nothing_said(self) -> dict[str, Tensor]:
        """The text of an empty prompt, as the pipeline's guidance has it: "text" (T, D), for SDXL "pooled" (E,)."""
        with torch.no_grad():
            encoded = encoding.encode(self.pipe, [""], guided=True)
        return _halves(encoded.negative, encoded.negative_pooled)[0]

    def texts(self, texts: Sequence[FacialText]) -> list[dict[str, Tensor]]:
        """The text of each prompt: "text" (T, D), for SDXL "pooled" (E,), half."""

        def encoded(chosen: Sequence[FacialText]) -> list[dict[str, Tensor]]:
            with torch.no_grad():
                out = encoding.encode(self.pipe, [x.full for x in chosen], seconds=[x.marked for x in chosen])
            return _halves(out.text, out.pooled)

        if (cache := self._text_cache) is None:
            return encoded(texts)
        out = []
        for text in texts:
            key = json.dumps([text.full, text.marked])
            if (found := cache.read(key)) is None:
                [found] = encoded([text])  # alone, so that what is kept never depends on its neighbours in a batch
                cache.write(key, found)
            out.append(found)
        return out

    # ---------------------------------------------------------------------------------------------------- what is kept

    def names(self) -> dict[str, str]:
        """Which networks the training depends on, wherever they lie: role -> name and hash of the weights."""
        roles = ("base", "image_encoder", "recogniser")
        names = {role: network_name(self.preset.networks[role]) for role in roles}
        names |= {f"identity_recognisers.{i}": fingerprint(path) for i, path in enumerate(self._asked)}
        return names | ({"latent_reader": fingerprint(self._reader)} if self._reader else {})

    def cache(self, kind: str, *made_with: object) -> Cache | None:
        """Where outputs of a kind of `CACHEABLE` are kept, or None if the recipe does not keep them."""
        if kind not in self._kept:
            return None
        asked = " ".join(fingerprint(Path(path)) for path in self._asked)
        networks = {
            "latents": lambda: f"{weights_digest(self.pipe.vae)} {self.pipe.vae.config.scaling_factor}",
            "references": lambda: " ".join(
                [
                    weights_digest(self.image_encoder),
                    self.processor.to_json_string(),
                    self.provenance.get("recogniser", ""),
                    asked,
                ]
            ),
            "text": lambda: " ".join([weights_digest(*self._text_encoders), *map(_vocabulary, self._tokenizers)]),
        }
        return Cache(self._folder / kind, json.dumps([kind, networks[kind](), *map(str, made_with)]))

    @cached_property
    def _text_cache(self) -> Cache | None:
        return self.cache("text")


def _vocabulary(tokenizer: Any) -> str:
    """Tells one tokenizer from another, by what it makes of words."""
    told = tokenizer.backend_tokenizer.to_str() if tokenizer.is_fast else json.dumps(tokenizer.get_vocab())
    return sha256(told.encode()).hexdigest()[:16]


def _stored(x: Tensor) -> Tensor:
    """As it comes back from the cache: also its layout in memory, by which convolutions choose their arithmetic."""
    return x.half().cpu().contiguous()


def _halves(text: Tensor | None, pooled: Tensor | None) -> list[dict[str, Tensor]]:
    rows = {name: _stored(x) for name, x in (("text", text), ("pooled", pooled)) if x is not None}
    return [dict(zip(rows, values, strict=True)) for values in zip(*rows.values(), strict=True)]


def _word_by_word(count: Count) -> Count:
    """The same count, of each word only once: no token reaches over a space."""
    word = lru_cache(maxsize=None)(count)
    return lambda text: 2 + sum(word(x) - 2 for x in text.split())
