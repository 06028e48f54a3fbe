"""Networks that would draw something wrong are refused when they are loaded, and broken pictures are never shown."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from safetensors.torch import load_file, save_file
from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

import tiny
from consistentid.adapter.identity import Identity
from consistentid.errors import CheckpointError, InputError, PipelineError, PromptTooLongError
from consistentid.pipeline.pipeline import ConsistentIDPipeline
from turns import by_turns

PROMPT = "a woman in a red hat"


@pytest.fixture(scope="module")
def who() -> Identity:
    return ConsistentIDPipeline.from_preset(tiny.preset(), device="cpu").identify(tiny.portrait())


def studio(**networks: Any) -> ConsistentIDPipeline:
    return ConsistentIDPipeline.from_preset(tiny.preset(), device="cpu", **networks)


@pytest.mark.parametrize(
    ("file", "value"),
    by_turns(
        [
            "base/unet/diffusion_pytorch_model.safetensors",
            "base/vae/diffusion_pytorch_model.safetensors",
            "base/text_encoder/model.safetensors",
            "adapter/model.safetensors",
            "image_encoder/model.safetensors",
            "parser/model.safetensors",
        ],
        [float("nan"), float("-inf")],
    ),
)
def test_one_weight_that_is_no_number_is_refused_by_name(tmp_path: Path, file: str, value: float) -> None:
    shutil.copytree(tiny.preset(), tmp_path / "faulty")
    weights = load_file(tmp_path / "faulty" / file)
    name = sorted(x for x in weights if weights[x].is_floating_point())[-1]
    weights[name].view(-1)[-1] = value
    save_file(weights, tmp_path / "faulty" / file, metadata={"format": "pt"})
    faulty = ConsistentIDPipeline.from_preset(tmp_path / "faulty", device="cpu")
    with pytest.raises(CheckpointError, match=rf"{Path(file).parent}.* not finite in .*{name[-12:]}; get its"):
        _ = faulty.encoder, faulty.pipe


def lora(folder: Path, value: float = 0.0) -> Path:
    """A LoRA that does nothing, with one value in it."""
    layer = "unet.mid_block.attentions.0.transformer_blocks.0.attn1.to_out.0"
    state = {f"{layer}.lora_A.weight": torch.ones(2, 32), f"{layer}.lora_B.weight": torch.zeros(32, 2)}
    state[f"{layer}.lora_B.weight"][0, 0] = value
    save_file(state, folder / "style.safetensors")
    return folder / "style.safetensors"


def test_a_lora_with_one_nan_is_refused_by_name(tmp_path: Path, who: Identity) -> None:
    with pytest.raises(CheckpointError, match=r"style\.safetensors holds values that are not finite .*to_out.*lora"):
        _ = studio(loras=[lora(tmp_path, float("nan"))]).pipe
    for scale in ("nan", "inf"):
        with pytest.raises(InputError, match=rf"style\.safetensors: scale={scale} is not allowed"):
            studio(loras=[f"{lora(tmp_path)}:{scale}"])


def test_pictures_that_are_no_numbers_are_an_error(tmp_path: Path, who: Identity) -> None:
    overflowing = studio(loras=[f"{lora(tmp_path, 1.0)}:3e38"])
    with pytest.raises(
        PipelineError, match=r"seed 5, 6 hold values that are not finite.*--dtype float32, or leave out"
    ):
        overflowing(who, PROMPT, seed=5, num_images_per_prompt=2)


def recogniser(file: Path, width: int, shape: list[int | str]) -> Path:
    weight = numpy_helper.from_array(np.ones((3 * 112 * 112, width), np.float32), "weight")
    nodes = [
        helper.make_node("Flatten", ["pixels"], ["flat"]),
        helper.make_node("MatMul", ["flat", "weight"], ["embedding"]),
    ]
    pixels = helper.make_tensor_value_info("pixels", TensorProto.FLOAT, ["batch", 3, 112, 112])
    embedding = helper.make_tensor_value_info("embedding", TensorProto.FLOAT, shape)
    graph = helper.make_graph(nodes, "recogniser", [pixels], [embedding], [weight])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), file)
    return file


@pytest.mark.parametrize("shape", [["batch", 64], ["batch", "width"]])
def test_a_recogniser_of_another_width_is_refused_when_it_is_loaded(
    tmp_path: Path, who: Identity, shape: list[int | str]
) -> None:
    narrow = studio(recogniser=recogniser(tmp_path / "narrow.onnx", 64, shape))
    words = r"recogniser: .*narrow\.onnx makes embeddings of 64 numbers, and the adapter takes 512"
    with pytest.raises(CheckpointError, match=words):
        narrow.identify(tiny.portrait())
    with pytest.raises(CheckpointError, match=words):
        narrow(who, PROMPT)
    assert "pipe" not in vars(narrow), "the base was loaded"


def test_an_image_encoder_of_another_width_is_refused_when_it_is_loaded(tmp_path: Path) -> None:
    shutil.copytree(tiny.preset() / "image_encoder", tmp_path / "wide")
    config = CLIPVisionConfig(
        hidden_size=64, intermediate_size=37, num_hidden_layers=2, num_attention_heads=4, image_size=32, patch_size=8
    )
    CLIPVisionModelWithProjection(config).save_pretrained(tmp_path / "wide")
    with pytest.raises(
        CheckpointError, match=r"image_encoder: .*wide makes features of 64 numbers, and the adapter takes 32"
    ):
        studio(image_encoder=tmp_path / "wide").identify(tiny.portrait())


@pytest.mark.parametrize(
    ("scheduler", "options", "words"),
    [
        ("UNet2DConditionModel", {}, r"scheduler='UNet2DConditionModel' is not known; give one of ddim"),
        ("FlowMatchEulerDiscreteScheduler", {}, r"is made for other models than Stable Diffusion; give one of ddim"),
        (
            "DDIMScheduler",
            {"steps_ofset": 1},
            r"scheduler_options: DDIMScheduler has no steps_ofset; it has ",
        ),
        (
            "DPMSolverMultistepScheduler",
            {"algorithm_type": "fast"},
            r"scheduler='DPMS.* with \{'algo.*cannot be used",
        ),
    ],
)
def test_a_scheduler_that_cannot_be_used_is_named(scheduler: str, options: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        _ = studio(scheduler=scheduler, scheduler_options=options).pipe


def test_a_lora_of_other_sizes_is_refused_with_file_and_layer(tmp_path: Path) -> None:
    layer = "mid_block.attentions.0.transformer_blocks.0.attn1.to_q"
    state = {f"unet.{layer}.lora_A.weight": torch.ones(2, 999), f"unet.{layer}.lora_B.weight": torch.ones(999, 2)}
    save_file(state, tmp_path / "wide.safetensors")
    words = (
        rf"^.*wide\.safetensors: its layer {layer}\.lora_\w.* has the shape \(2, 999\), and this base's has \(2, \d+\)"
    )
    with pytest.raises(CheckpointError, match=words) as caught:
        _ = studio(loras=[tmp_path / "wide.safetensors"]).pipe
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("file", "content"),
    by_turns(
        ["base/scheduler/scheduler_config.json", "base/vae/config.json", "base/tokenizer/tokenizer_config.json",
         "image_encoder/preprocessor_config.json", "parser/config.json", "adapter/config.json"],
        ["[]", '"owner/name"', "3", "{"],
    ),
)  # fmt: skip
def test_settings_that_are_no_mapping_are_refused_and_never_looked_for_on_the_hub(
    tmp_path: Path, file: str, content: str
) -> None:
    shutil.copytree(tiny.preset(), tmp_path / "faulty")
    (tmp_path / "faulty" / file).write_text(content)
    faulty = ConsistentIDPipeline.from_preset(tmp_path / "faulty", device="cpu")
    with pytest.raises(CheckpointError, match=rf"{file}: (holds a \w+, and no mapping|is not JSON)"):
        _ = faulty.encoder, faulty.pipe


def test_what_a_folder_lacks_is_not_blamed_on_the_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    shutil.copytree(tiny.preset(), tmp_path / "faulty")
    (tmp_path / "faulty/base/scheduler/scheduler_config.json").unlink()
    faulty = ConsistentIDPipeline.from_preset(tmp_path / "faulty", device="cpu")
    with pytest.raises(
        CheckpointError, match=r"^base: .*faulty/base cannot be loaded \(.*; get its files again"
    ) as told:
        _ = faulty.pipe
    assert "offline" not in str(told.value)
    assert "connect" not in str(told.value)


def test_an_image_processor_of_another_size_is_refused_when_it_is_loaded(tmp_path: Path) -> None:
    shutil.copytree(tiny.preset() / "image_encoder", tmp_path / "encoder")
    (tmp_path / "encoder/preprocessor_config.json").write_text("{}")
    with pytest.raises(CheckpointError, match="makes pictures of 224x224 pixels, and the network reads 32x32; get its"):
        studio(image_encoder=tmp_path / "encoder").identify(tiny.portrait())


def test_a_tokenizer_that_does_not_say_where_its_encoder_ends(tmp_path: Path, who: Identity) -> None:
    shutil.copytree(tiny.preset(), tmp_path / "open")
    (tmp_path / "open/base/tokenizer/tokenizer_config.json").write_text("{}")
    silent = ConsistentIDPipeline.from_preset(tmp_path / "open", device="cpu")
    assert silent.pipe.tokenizer.model_max_length == 77
    with pytest.raises(PromptTooLongError, match="the text encoder reads 75"):
        silent(who, "a very " * 80, num_inference_steps=1)
