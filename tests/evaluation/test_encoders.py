"""Encoders by folder: tiny networks of the families that photos are scored with, held to transformers' own use."""

from __future__ import annotations

import shutil
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import (
    CLIPConfig,
    CLIPImageProcessorPil,
    CLIPModel,
    CLIPTokenizer,
    ViTConfig,
    ViTImageProcessorPil,
    ViTModel,
)

from consistentid.errors import CheckpointError, InputError
from consistentid.evaluation.encoders import Encoders, load_encoders, see
from consistentid.evaluation.people import Person
from consistentid.faces.parts import PARTS, part_pictures
from consistentid.files.images import load_image
from consistentid.pipeline.pipeline import ConsistentIDPipeline

SIZES = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}


@pytest.fixture(scope="module")
def clip(studio: ConsistentIDPipeline, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("clip")
    assert studio.preset.base.path is not None
    tokenizer = CLIPTokenizer.from_pretrained(studio.preset.base.path / "tokenizer")
    torch.manual_seed(0)
    ends = {"eos_token_id": tokenizer.eos_token_id, "bos_token_id": tokenizer.bos_token_id}
    text = {**SIZES, **ends, "vocab_size": len(tokenizer), "max_position_embeddings": 77}
    vision = {**SIZES, "image_size": 32, "patch_size": 8}
    CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=16)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def dino(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dino")
    torch.manual_seed(1)
    ViTModel(ViTConfig(**SIZES, image_size=32, patch_size=8)).save_pretrained(folder)
    ViTImageProcessorPil(size={"height": 32, "width": 32}).save_pretrained(folder)
    return folder


@pytest.mark.parametrize(("kind", "lost"), [("clip", "visual_projection.weight"), ("dino", "layernorm.bias")])
def test_weights_that_are_missing_are_named(
    studio: ConsistentIDPipeline, clip: Path, dino: Path, tmp_path: Path, kind: str, lost: str
) -> None:
    folders = {"clip": clip, "dino": dino}
    folder = folders[kind] = Path(shutil.copytree(folders[kind], tmp_path / kind))
    weights = load_file(folder / "model.safetensors")
    del weights[lost]
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(CheckpointError, match=lost):
        load_encoders(studio, str(folders["clip"]), str(folders["dino"]))


@pytest.fixture(scope="module")
def of_photos(studio: ConsistentIDPipeline, clip: Path, dino: Path) -> Encoders:
    return load_encoders(studio, str(clip), str(dino))


@pytest.fixture(scope="module")
def picture(people: list[Person]) -> Image.Image:
    return load_image(people[0].reference)


def test_clip_is_that_of_transformers(of_photos: Encoders, clip: Path, picture: Image.Image) -> None:
    model, texts = CLIPModel.from_pretrained(clip).eval(), ["a person in a red hat", "a person"]
    tokens = CLIPTokenizer.from_pretrained(clip)(texts, padding="max_length", return_tensors="pt")
    pixels = CLIPImageProcessorPil.from_pretrained(clip)(images=[picture], return_tensors="pt")
    with torch.no_grad():
        expected = model(**tokens, **pixels)
    unit = {"text": of_photos.clip.embed_texts(texts), "image": of_photos.clip.embed([picture])}
    unit = {name: x / np.linalg.norm(x, axis=1, keepdims=True) for name, x in unit.items()}
    assert unit["text"] == pytest.approx(expected.text_embeds.numpy(), abs=1e-5)
    assert unit["image"] == pytest.approx(expected.image_embeds.numpy(), abs=1e-5)


def test_dino_is_the_class_token_of_picture_and_crops(of_photos: Encoders, dino: Path, picture: Image.Image) -> None:
    model, processor = ViTModel.from_pretrained(dino).eval(), ViTImageProcessorPil.from_pretrained(dino)
    seen = see([picture], of_photos)
    [face, *_] = of_photos.faces.analyze(picture)
    crops = part_pictures(picture, face.parsing)
    with torch.no_grad():
        tokens = model(**processor(images=[picture, *crops.values()], return_tensors="pt")).last_hidden_state[:, 0]
    assert seen.dino[0] == pytest.approx(tokens[0].numpy(), abs=1e-5)
    for part, token in zip(crops, tokens[1:], strict=True):
        assert seen.parts[0, PARTS.index(part)] == pytest.approx(token.numpy(), abs=1e-5)


def test_named_encoders_are_not_marked_and_are_named(of_photos: Encoders, encoders: Encoders, clip: Path) -> None:
    assert of_photos.marks == ()
    assert of_photos.names()["CLIP"] == str(clip)
    assert encoders.dino is None
    assert "aligned parts" in encoders.names()["facial parts"]


def test_a_picture_without_a_face_has_no_face_and_no_parts(encoders: Encoders, picture: Image.Image) -> None:
    seen = see([Image.new("RGB", (64, 64), "grey"), picture], encoders)
    assert np.isnan(seen.face[0]).all()
    assert np.isnan(seen.parts[0]).all()
    assert not np.isnan(seen.clip).any()
    assert np.linalg.norm(seen.face[1]) == pytest.approx(1, abs=1e-5)


def test_the_drawn_pair_knows_what_a_picture_shows(encoders: Encoders, people: list[Person]) -> None:
    pictures = encoders.clip.embed([load_image(person.real[0]) for person in people])
    right, wrong = encoders.clip.embed_texts(["a person in a red hat on a beach", "a person in a blue suit at night"])
    nearer = pictures @ (right / np.linalg.norm(right) - wrong / np.linalg.norm(wrong)) > 0
    assert nearer.mean() > 0.8


DAMAGED: dict[str, tuple[bytes, ...]] = {
    ".json": (b"[]", b"{"),
    ".safetensors": (b"\x11" + bytes(7) + b'{"a": {"x": [1]}}', b"\xff" * 16),
}


@pytest.mark.parametrize(
    "part",
    [
        "base/tokenizer",
        "dino",
        *(pytest.param(part, marks=pytest.mark.slow) for part in ("image_encoder", "base/text_encoder", "clip")),
    ],
)
def test_damaged_files_are_an_error_that_names_them(
    studio: ConsistentIDPipeline, clip: Path, dino: Path, tmp_path: Path, part: str
) -> None:
    shipped = {"image_encoder": studio.preset.image_encoder.path, "base": studio.preset.base.path}
    for name, source in {**shipped, "clip": clip, "dino": dino}.items():
        assert source is not None
        shutil.copytree(source, tmp_path / name, ignore=shutil.ignore_patterns("unet", "vae"))
    options = {name: str(tmp_path / name) for name in ("clip", "dino") if name == part}
    changed = ConsistentIDPipeline(studio.preset.override(**{x: str(tmp_path / x) for x in shipped}), device="cpu")
    vars(changed).update(analyzer=studio.analyzer, judge=studio.judge)  # which are not what is damaged
    refused = []
    for file in sorted(x for x in (tmp_path / part).iterdir() if x.suffix in DAMAGED):
        before = file.read_bytes()
        for damage in DAMAGED[file.suffix]:
            file.write_bytes(damage)
            with suppress(CheckpointError):
                load_encoders(changed, **options)
                continue  # some say nothing that anybody needs
            refused.append(file.name)
        file.write_bytes(before)
    assert len(refused) >= 2
    assert all(refused.count(file.name) == 2 for file in (tmp_path / part).glob("*.safetensors"))
    load_encoders(changed, **options)


def test_a_text_encoder_that_lacks_weights_does_not_score(studio: ConsistentIDPipeline, tmp_path: Path) -> None:
    assert studio.preset.base.path is not None
    shutil.copytree(studio.preset.base.path, tmp_path / "base", ignore=shutil.ignore_patterns("unet", "vae"))
    changed = ConsistentIDPipeline(studio.preset.override(base=str(tmp_path / "base")), device="cpu")
    file = tmp_path / "base/text_encoder/model.safetensors"
    weights = load_file(file)
    lost = next(name for name in weights if name.endswith("final_layer_norm.weight"))
    del weights[lost]
    save_file(weights, file, {"format": "pt"})
    with pytest.raises(CheckpointError, match=r"text_encoder lacks the weights .*final_layer_norm.weight"):
        load_encoders(changed)
    shutil.copy(studio.preset.base.path / "text_encoder/model.safetensors", file)
    save_file({"text_projection.weight": torch.ones(3, 2)}, file.with_name("text_projection.safetensors"))
    with pytest.raises(CheckpointError, match=r"text_projection\.weight of \(\d+, \d+\) is needed, .* \(3, 2\)"):
        load_encoders(changed)


def test_what_is_no_encoder_is_refused(studio: ConsistentIDPipeline, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"no CLIP model .* with --clip"):
        load_encoders(studio, clip=str(tmp_path))
    with pytest.raises(CheckpointError, match=r"no vision transformer .* with --dino"):
        load_encoders(studio, dino=str(tmp_path))
    with (tmp_path / "holes").open("wb") as file:
        file.truncate(1 << 36)
    for options in ({"clip": str(tmp_path / "holes")}, {"dino": str(tmp_path / "holes")}):
        with pytest.raises(CheckpointError, match=rf"holes: is a file, and no .* with --{next(iter(options))}"):
            load_encoders(studio, **options)


def test_the_conditioning_recogniser_is_marked_when_it_is_asked_for(studio: ConsistentIDPipeline) -> None:
    flattered = ConsistentIDPipeline(studio.preset.override(judge=str(studio.preset.recogniser.path)), device="cpu")
    with pytest.raises(InputError, match="conditioned the model"):
        load_encoders(flattered)
    assert any("flattered" in mark for mark in load_encoders(flattered, conditioned_judge=True).marks)
