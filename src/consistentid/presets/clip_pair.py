"""CLIP pairs: pictures and texts in one space, also where a preset's own networks make one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from consistentid.adapter.store import read_state
from consistentid.errors import CheckpointError
from consistentid.files.weights import check_finite, check_network
from consistentid.presets.loading import bound_length, loading, network_name, text_projection
from consistentid.presets.network import Network
from consistentid.presets.preset import Preset

Floats = NDArray[np.floating[Any]]

BATCH: Final = 32
"""Pictures encoded at a time."""

_PROJECTION: Final = "text_projection.weight"

_LARGEST: Final = 2
"""`eos_token_id` of configurations that mean the token of the largest number, as all old ones of CLIP do."""


class VisionEncoder:
    """Pictures through a network of transformers.

    Args:
        name: goes into reports.
        network: pixel values (B, 3, H, W) -> (B, D).
        processor: the image processor that goes with it.
        device: where `network` is.
    """

    def __init__(self, name: str, network: Callable[[Tensor], Tensor], processor: Any, device: torch.device) -> None:
        self.name = name
        self._network, self._processor, self._device = network, processor, device

    @torch.inference_mode()
    def embed(self, pictures: Sequence[Image.Image]) -> Floats:
        """(K, D) float32 of K RGB pictures, not normalised."""
        batches = []
        for start in range(0, len(pictures), BATCH):
            batch = self._processor(images=list(pictures[start : start + BATCH]), return_tensors="pt")
            batches.append(self._network(batch["pixel_values"].to(self._device)).float().cpu())
        return torch.cat(batches).numpy()


class ClipEncoder(VisionEncoder):
    """A CLIP pair.

    Args:
        name, vision, processor, device: see `VisionEncoder`.
        text: token ids (B, T) -> (B, D); what follows the first end token must not matter, as in CLIP.
        tokenizer: of transformers.
    """

    def __init__(
        self,
        name: str,
        vision: Callable[[Tensor], Tensor],
        processor: Any,
        text: Callable[[Tensor], Tensor],
        tokenizer: Any,
        device: torch.device,
    ) -> None:
        super().__init__(name, vision, processor, device)
        self._text, self._tokenizer = text, tokenizer

    @torch.inference_mode()
    def embed_texts(self, texts: Sequence[str]) -> Floats:
        """(K, D) float32 of K texts, not normalised; a text is cut where the encoder's context ends."""
        tokens = self._tokenizer(list(texts), padding=True, truncation=True, return_tensors="pt")
        features: Floats = self._text(tokens["input_ids"].to(self._device)).float().cpu().numpy()
        return features


def clip_of_preset(
    preset: Preset, vision: Any, processor: Any, tokenizer: Any, device: torch.device
) -> ClipEncoder | None:
    """The preset's image encoder with the text encoder that was trained with it; None where there is none at hand.

    That is the other half of the image encoder's own files, where they hold a whole CLIP model, as laion's do; or the
    base's text encoder, where a projection lies beside it. Any other text encoder speaks of another space, also one of
    the same width.

    Args:
        preset: names them.
        vision: the preset's image encoder, a CLIP vision model with projection, on `device`.
        processor: its image processor.
        tokenizer: of the base.
        device: where to compute.

    Raises:
        CheckpointError: their files are broken.
    """
    network = preset.image_encoder
    with loading("image_encoder", network):
        text = _other_half(network, tokenizer, vision.dtype)
    if text is None:
        with loading("base", preset.base):
            text = _projected(preset.base, vision.config.projection_dim, vision.dtype)
    if text is None:
        return None
    model, projection = (part.to(device).requires_grad_(False) for part in text)
    bound_length(tokenizer, model)
    return ClipEncoder(
        network_name(network) or network.repo,
        lambda pixels: vision(pixel_values=pixels.to(vision.dtype)).image_embeds,
        processor,
        lambda ids: projection(model.eval()(input_ids=ids).pooler_output),
        tokenizer,
        device,
    )


def _other_half(network: Network, tokenizer: Any, dtype: torch.dtype) -> tuple[nn.Module, nn.Module] | None:
    """Text model and projection of a whole CLIP model, which reads the base's tokens."""
    from transformers import CLIPConfig, CLIPTextModelWithProjection

    source, options = network.pretrained
    if CLIPConfig.get_config_dict(source, **options)[0].get("model_type") != "clip":
        return None
    whole, report = CLIPTextModelWithProjection.from_pretrained(
        source, dtype=dtype, output_loading_info=True, **options
    )
    check_network(whole, report["missing_keys"], f"image_encoder: {network}")
    end, config = tokenizer.eos_token_id, whole.config
    same_tokens = config.eos_token_id == end or (config.eos_token_id == _LARGEST and config.vocab_size == end + 1)
    return (whole.text_model, whole.text_projection) if same_tokens else None


def _projected(base: Network, width: int, dtype: torch.dtype) -> tuple[nn.Module, nn.Module] | None:
    """The text model of a base's folder, and the projection that lies beside it."""
    from transformers import CLIPTextModel

    if (file := text_projection(base)) is None:
        return None
    model, report = CLIPTextModel.from_pretrained(file.parent, dtype=dtype, output_loading_info=True)
    check_network(model, report["missing_keys"], f"base: {base}/text_encoder")
    weight = _projection(file, (width, model.config.hidden_size)).to(dtype)
    projection = nn.Linear(weight.shape[1], weight.shape[0], bias=False, dtype=dtype)
    projection.load_state_dict({"weight": weight})
    return model, projection


def _projection(file: Path, shape: tuple[int, int]) -> Tensor:
    """What takes a text's features into the space of pictures."""
    weights = read_state(file)[0]
    projection: Tensor | None = weights.get(_PROJECTION)
    if projection is None or projection.shape != shape:
        found = "lacks it" if projection is None else f"has one of {tuple(projection.shape)}"
        raise CheckpointError(f"{file}: {_PROJECTION} of {shape} is needed, and it {found}; get its files again")
    check_finite(weights.items(), str(file))
    return projection.float()
