"""Which text encoder goes with a preset's image encoder, and that words and pictures meet in one space."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from transformers import CLIPConfig, CLIPModel, CLIPTextModel, CLIPTokenizer, CLIPVisionModelWithProjection

import tiny
from consistentid.errors import CheckpointError
from consistentid.presets.clip_pair import ClipEncoder, clip_of_preset
from consistentid.presets.loading import TEXT_PROJECTION, load_image_encoder
from consistentid.presets.read import load_preset

WORDS = ["a woman", "a man with a hat"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny.preset(), tmp_path / "preset"))


def whole_clip(folder: Path, **text: Any) -> CLIPModel:
    """A whole CLIP model in place of the preset's image encoder, whose half it is."""
    torch.manual_seed(1)
    vision = CLIPVisionModelWithProjection.from_pretrained(folder / "image_encoder")
    config = {
        "vocab_size": 815, "hidden_size": 32, "intermediate_size": 37, "num_hidden_layers": 2, "num_attention_heads": 4,
        "bos_token_id": 813, "eos_token_id": 814, "pad_token_id": 814, "projection_dim": 32, **text,
    }  # fmt: skip
    sizes = {**vision.config.to_dict(), "projection_dim": 32}
    model = CLIPModel(CLIPConfig(text_config=config, vision_config=sizes, projection_dim=32)).eval()
    model.save_pretrained(folder / "image_encoder")
    return model


def pair_of(folder: Path) -> ClipEncoder | None:
    preset = load_preset(folder)
    vision, processor = load_image_encoder(preset.image_encoder, torch.float32)
    tokenizer = CLIPTokenizer.from_pretrained(folder / "base" / "tokenizer")
    return clip_of_preset(preset, vision, processor, tokenizer, torch.device("cpu"))


def tokens(folder: Path) -> torch.Tensor:
    tokenizer = CLIPTokenizer.from_pretrained(folder / "base" / "tokenizer")
    ids: torch.Tensor = tokenizer(WORDS, padding=True, return_tensors="pt")["input_ids"]
    return ids


def test_an_image_encoder_alone_has_no_text_encoder(folder: Path) -> None:
    # the base's text encoder is as wide as the image encoder's projection, and yet of another space
    assert pair_of(folder) is None


@torch.no_grad()
def test_the_other_half_of_a_whole_clip_model(folder: Path) -> None:
    model = whole_clip(folder)
    pair = pair_of(folder)
    assert pair is not None
    words = model.text_projection(model.text_model(input_ids=tokens(folder)).pooler_output)
    assert np.allclose(pair.embed_texts(WORDS), words, atol=1e-6)
    pixels = load_image_encoder(load_preset(folder).image_encoder, torch.float32)[1](tiny.portrait())["pixel_values"]
    seen = model.visual_projection(model.vision_model(pixel_values=torch.tensor(np.array(pixels))).pooler_output)
    assert np.allclose(pair.embed([tiny.portrait()]), seen, atol=1e-6)


@torch.no_grad()
def test_old_configurations_of_clip_mean_the_largest_token(folder: Path) -> None:
    model = whole_clip(folder, eos_token_id=2)
    pair = pair_of(folder)
    assert pair is not None
    padded = torch.nn.functional.pad(tokens(folder), (0, 3), value=814)
    words = model.text_projection(model.text_model(input_ids=padded).pooler_output)
    assert np.allclose(pair.embed_texts(WORDS), words, atol=1e-6)


def test_a_text_encoder_of_other_tokens_is_not_asked(folder: Path) -> None:
    whole_clip(folder, vocab_size=900, eos_token_id=899, pad_token_id=899)
    assert pair_of(folder) is None


@torch.no_grad()
def test_a_projection_beside_the_base_s_text_encoder(folder: Path) -> None:
    weight = torch.randn(32, 32, generator=torch.Generator().manual_seed(0))
    save_file({"text_projection.weight": weight}, folder / "base" / "text_encoder" / TEXT_PROJECTION)
    pair = pair_of(folder)
    assert pair is not None
    text = CLIPTextModel.from_pretrained(folder / "base" / "text_encoder")
    assert np.allclose(pair.embed_texts(WORDS), text(input_ids=tokens(folder)).pooler_output @ weight.T, atol=1e-5)


def test_a_broken_half_is_an_error_that_names_it(folder: Path) -> None:
    save_file({"text_projection.weight": torch.zeros(32, 32)}, folder / "base" / "text_encoder" / TEXT_PROJECTION)
    (folder / "base" / "text_encoder" / TEXT_PROJECTION).write_bytes(b"half of it")
    with pytest.raises(CheckpointError, match=TEXT_PROJECTION):
        pair_of(folder)


def test_pictures_of_any_number_are_encoded(folder: Path) -> None:
    whole_clip(folder)
    pair = pair_of(folder)
    assert pair is not None
    many = [Image.new("RGB", (40, 40), (shade, 0, 0)) for shade in range(40)]
    assert np.allclose(pair.embed(many)[35], pair.embed(many[35:36])[0], atol=1e-5)
