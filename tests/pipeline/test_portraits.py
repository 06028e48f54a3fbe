"""`Portraits.save`: the library puts in record and mark, and nothing of the user's machine gets into a picture."""

from __future__ import annotations

import ast
import io
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

import consistentid
import tiny
from consistentid.adapter.identity import Identity
from consistentid.errors import InputError
from consistentid.files.output import COMPOSITE_SOURCE_TYPE, DIGITAL_SOURCE_TYPE, read_record
from consistentid.files.weights import fingerprint
from consistentid.pipeline.pipeline import ConsistentIDPipeline
from consistentid.pipeline.portraits import Portraits
from consistentid.pipeline.request import Request
from consistentid.provenance.marks import UNMARKED, Provenance
from consistentid.provenance.watermark import embed

PROMPTS = ["a woman in a red hat", "a man"]


def lora_of(studio: ConsistentIDPipeline, file: Path) -> Path:
    state = {}
    for name, module in studio.pipe.unet.named_modules():
        if name.endswith(".attn2.to_q"):
            state[f"unet.{name}.lora_A.weight"] = torch.zeros(2, module.in_features)
            state[f"unet.{name}.lora_B.weight"] = torch.zeros(module.out_features, 2)
    save_file(state, file)
    return file


@pytest.fixture(scope="module")
def studio(tmp_path_factory: pytest.TempPathFactory) -> ConsistentIDPipeline:
    """With a LoRA that lies in some folder of the user's."""
    plain = ConsistentIDPipeline.from_preset(tiny.preset(), device="cpu", fold=False)
    file = lora_of(plain, tmp_path_factory.mktemp("private") / "style.safetensors")
    return ConsistentIDPipeline.from_preset(tiny.preset(), device="cpu", loras=[f"{file}:0.5"])


@pytest.fixture(scope="module")
def who(studio: ConsistentIDPipeline) -> Identity:
    return studio.identify(tiny.portrait())


@pytest.fixture(scope="module")
def made(studio: ConsistentIDPipeline, who: Identity, tmp_path_factory: pytest.TempPathFactory) -> Portraits:
    photo = tmp_path_factory.mktemp("private") / "party.png"
    tiny.portrait().save(photo)
    return studio(who, PROMPTS, num_images_per_prompt=2, seed=7, image=str(photo), strength=0.5, scale=0.5)


def test_every_file_says_how_it_was_made_and_that_it_was(
    studio: ConsistentIDPipeline, who: Identity, made: Portraits, tmp_path: Path
) -> None:
    results = made.save(tmp_path / "new", references=[tiny.portrait()], about={"references": ["/home/ada/ada.png"]})
    assert json.loads((tmp_path / "new" / "results.json").read_text()) == json.loads(
        json.dumps(results).replace("NaN", "null")
    )
    files = [Path(item["file"]) for item in results["pictures"]]
    assert [file.name for file in files] == ["portrait-7.png", "portrait-8.png", "portrait-7-2.png", "portrait-8-2.png"]
    for number, file in enumerate([*files, Path(results["sheet"])]):
        content = file.read_bytes()
        assert DIGITAL_SOURCE_TYPE.encode() in content
        for private in ("/home/", "private", "party.png", str(tiny.preset())):
            assert private.encode() not in content, private
        record = read_record(file)
        assert record["ai_generated"] is True
        assert record["adapter"] == fingerprint(tiny.preset() / "adapter")
        assert record["base"] == fingerprint(tiny.preset() / "base")
        [lora] = record["loras"]
        assert lora["name"].startswith("style@")
        assert lora["scale"] == 0.5
        assert (record["strength"], record["scale"]) == (0.5, 0.5)
        if number < 4:
            assert (record["prompt"], record["seed"]) == (PROMPTS[number // 2], 7 + number % 2)
            with Image.open(file) as picture:
                assert picture.tobytes() == embed(made.images[number]).tobytes() != made.images[number].tobytes()
    assert results["references"] == ["/home/ada/ada.png"]


def test_a_picture_is_made_again_from_its_record(studio: ConsistentIDPipeline, who: Identity, tmp_path: Path) -> None:
    first = studio(
        who, PROMPTS[0], seed=7, scale=0.5, negative_prompt="blurry", parts={"eyes": "green eyes"},
        part_scales={"eyes": 0.25},
    )  # fmt: skip
    record = read_record(first.save(tmp_path, sheet=False)["pictures"][0]["file"])
    again = Request(
        who, record["prompt"], seed=record["seed"], num_inference_steps=record["steps"], scale=record["scale"],
        guidance_scale=record["guidance_scale"], merge_at=record["merge_at"], parts=record["parts"],
        part_scales=record["part_scales"],
        negative_prompt=record["negative_prompt"], width=record["width"], height=record["height"],
    )  # fmt: skip
    assert studio.generate(again).to_png(0) == first.to_png(0), "to the last byte, record included"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["portrait-7.png", "results.json"]


def test_the_mark_is_put_in_when_pictures_leave_and_where_they_are_measured_it_is_not(
    studio: ConsistentIDPipeline, who: Identity, made: Portraits
) -> None:
    def pixels(png: bytes) -> bytes:
        return Image.open(io.BytesIO(png)).tobytes()

    assert pixels(made.to_png(0)) == embed(made.images[0]).tobytes()
    assert pixels(made.to_png(0, provenance=UNMARKED)) == made.images[0].tobytes(), "as `evaluate` writes them"
    off = ConsistentIDPipeline(studio.preset, "cpu", provenance=Provenance(watermark=False))
    [image] = (again := off(who, PROMPTS[0], seed=7)).images
    assert pixels(again.to_png(0)) == image.tobytes()


def test_what_a_mask_leaves_alone_is_saved_to_the_last_bit(studio: ConsistentIDPipeline, who: Identity) -> None:
    photo = tiny.portrait()
    mask = Image.new("L", photo.size)
    mask.paste(255, (40, 40, 90, 100))
    made = studio(who, PROMPTS[0], seed=7, image=photo, mask=mask)
    saved = np.asarray(Image.open(io.BytesIO(made.to_png(0))))
    outside = np.asarray(mask) == 0
    assert (saved == np.asarray(photo))[outside].all()
    assert (saved != np.asarray(made.images[0]))[~outside].any(), "what was drawn is marked"
    assert COMPOSITE_SOURCE_TYPE.encode() in made.to_png(0)


def test_what_cannot_be_written_is_told(made: Portraits, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="is a file; name a folder"):
        made.save(tmp_path / "file")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_one_place_calls_a_pipeline() -> None:
    """Who makes pictures makes a `Request`: nothing else in the package calls a diffusers pipeline."""
    sources = Path(consistentid.__file__).parent
    found = set()
    for file in sources.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Call):
                name = getattr(node.func, "id", getattr(node.func, "attr", ""))
                arguments = {keyword.arg for keyword in node.keywords}
                if name in ("pipe", "pipeline") or ("num_inference_steps" in arguments and name != "Request"):
                    found.add(file.relative_to(sources).as_posix())
    assert found == {"pipeline/sampling.py"}
