"""Small real networks."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hand_drawn import GOLDEN, KPS, colour_parser, save_onnx
from numpy.typing import NDArray
from onnx import helper

from consistentid.faces.analyzer import FaceAnalyzer
from consistentid.faces.detection import OnnxDetector
from consistentid.faces.from_labels import LabelDetector
from consistentid.faces.parsing import FaceParser
from consistentid.faces.recognition import OnnxRecogniser

PHOTOS = Path(__file__).parents[3] / "shared" / "photos"
"""Real photos, a real detector and a real parser, which are no part of the project and need not be there."""

TEMPLATE = (
    "{% for message in messages %}USER: {% for item in message['content'] %}"
    "{% if item['type'] == 'image' %}<image> {% else %}{{ item['text'] }}{% endif %}{% endfor %}{% endfor %}"
    "{% if add_generation_prompt %} ASSISTANT:{% endif %}"
)


@pytest.fixture(scope="session")
def llava(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A LLaVA of one layer each whose answers depend on picture and question."""
    from transformers import (
        CLIPImageProcessorPil,
        CLIPTokenizer,
        CLIPVisionConfig,
        LlamaConfig,
        LlavaConfig,
        LlavaForConditionalGeneration,
        LlavaProcessor,
    )

    torch.manual_seed(0)
    tokenizer = CLIPTokenizer.from_pretrained(GOLDEN / "tokenizer" / "tokenizer")
    tokenizer.add_special_tokens({"additional_special_tokens": ["<image>"]})
    vision = CLIPVisionConfig(
        hidden_size=16, intermediate_size=16, num_hidden_layers=2, num_attention_heads=2, image_size=16, patch_size=8
    )
    text = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2,
        initializer_range=0.5, bos_token_id=813, eos_token_id=814, pad_token_id=814,
    )  # fmt: skip
    image_token = tokenizer.convert_tokens_to_ids("<image>")
    config = LlavaConfig(vision_config=vision, text_config=text, image_token_index=image_token)
    model = LlavaForConditionalGeneration(config)
    model.generation_config.eos_token_id = 814
    processor = LlavaProcessor(
        CLIPImageProcessorPil(size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16}),
        tokenizer,
        patch_size=8,
        vision_feature_select_strategy="default",
        chat_template=TEMPLATE,
        num_additional_image_tokens=1,
    )
    place = tmp_path_factory.mktemp("captioner") / "llava"
    model.save_pretrained(place)
    processor.save_pretrained(place)
    return place


@pytest.fixture(scope="session")
def qwen(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Qwen2.5-VL of one layer each, in the files of its repository; its processor knows films as well."""
    from transformers import (
        CLIPTokenizer,
        Qwen2_5_VLConfig,
        Qwen2_5_VLForConditionalGeneration,
        Qwen2VLImageProcessorPil,
    )

    torch.manual_seed(0)
    tokenizer = CLIPTokenizer.from_pretrained(GOLDEN / "tokenizer" / "tokenizer")
    marks = [f"<|{name}|>" for name in ("vision_start", "vision_end", "image_pad", "video_pad")]
    tokenizer.add_special_tokens({"additional_special_tokens": marks})
    names = ("vision_start_token_id", "vision_end_token_id", "image_token_id", "video_token_id")
    config = Qwen2_5_VLConfig(
        vision_config={
            "depth": 1, "hidden_size": 16, "intermediate_size": 16, "num_heads": 2, "out_hidden_size": 32,
            "patch_size": 4, "window_size": 16, "fullatt_block_indexes": [0],
        },
        text_config={
            "vocab_size": len(tokenizer), "hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1,
            "num_attention_heads": 2, "num_key_value_heads": 2, "initializer_range": 0.5, "bos_token_id": 813,
            "eos_token_id": 814, "pad_token_id": 814,
            "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 3, 3]},
        },
        **dict(zip(names, tokenizer.convert_tokens_to_ids(marks), strict=True)),
    )  # fmt: skip
    model = Qwen2_5_VLForConditionalGeneration(config)
    model.generation_config.eos_token_id = 814
    place = tmp_path_factory.mktemp("captioner") / "qwen"
    model.save_pretrained(place)
    tokenizer.save_pretrained(place)
    Qwen2VLImageProcessorPil(patch_size=4, size={"shortest_edge": 64, "longest_edge": 1024}).save_pretrained(place)
    image = "<|vision_start|><|image_pad|><|vision_end|>"
    (place / "chat_template.jinja").write_text(TEMPLATE.replace("<image>", image))
    return place


@pytest.fixture
def parser() -> FaceParser:
    return colour_parser(256)


@pytest.fixture(scope="session")
def recogniser_weights() -> NDArray[np.float32]:
    return np.random.RandomState(0).randn(3 * 8 * 8, 512).astype(np.float32)


@pytest.fixture(scope="session")
def recogniser_path(tmp_path_factory: pytest.TempPathFactory, recogniser_weights: NDArray[np.float32]) -> Path:
    """(B, 3, 112, 112) -> (B, 512): an 8x8 mosaic of the picture, times a random matrix."""
    nodes = [
        helper.make_node("AveragePool", ["input"], ["mosaic"], kernel_shape=[14, 14], strides=[14, 14]),
        helper.make_node("Flatten", ["mosaic"], ["flat"]),
        helper.make_node("MatMul", ["flat", "weights"], ["embedding"]),
    ]
    path = tmp_path_factory.mktemp("onnx") / "recogniser.onnx"
    shapes: dict[str, list[int | str]] = {"input": ["batch", 3, 112, 112], "embedding": ["batch", 512]}
    return save_onnx(path, nodes, {"weights": recogniser_weights}, shapes)


@pytest.fixture
def analyzer(parser: FaceParser, recogniser_path: Path) -> FaceAnalyzer:
    return FaceAnalyzer(LabelDetector(parser), OnnxRecogniser(recogniser_path), parser)


@pytest.fixture
def detector_path(tmp_path: Path) -> Callable[..., Path]:
    """Makes an SCRFD-shaped detector of red cells of 8 pixels that are not surrounded by red.

    Boxes reach three cells to each side of the cell's corner, landmarks lie at `KPS` cells from it.
    """

    def make(size: int | str = "size", outputs: int = 9) -> Path:
        nodes = [helper.make_node("Conv", ["input", "red_minus_green"], ["red"])]
        shapes: dict[str, list[int | str]] = {"input": [1, 3, size, size]}
        for stride in (8, 16, 32):
            cell = {"kernel_shape": [stride] * 2, "strides": [stride] * 2}
            around = {"kernel_shape": [5, 5], "pads": [2] * 4, "count_include_pad": 0}
            nodes += [
                helper.make_node("AveragePool", ["red"], [f"p{stride}"], **cell),
                helper.make_node("AveragePool", [f"p{stride}"], [f"n{stride}"], **around),
                helper.make_node("Sub", [f"n{stride}", "half"], [f"over{stride}"]),
                helper.make_node("Relu", [f"over{stride}"], [f"excess{stride}"]),
                helper.make_node("Mul", [f"excess{stride}", "ten"], [f"penalty{stride}"]),
                helper.make_node("Sub", [f"p{stride}", f"penalty{stride}"], [f"raw{stride}"]),
                helper.make_node("Mul", [f"raw{stride}", "one" if stride == 8 else "zero"], [f"map{stride}"]),
                helper.make_node("Reshape", [f"map{stride}", "column"], [f"cell{stride}"]),
                helper.make_node("Concat", [f"cell{stride}"] * 2, [f"pair{stride}"], axis=1),
                helper.make_node("Reshape", [f"pair{stride}", "column"], [f"score{stride}"]),
                helper.make_node("Mul", [f"score{stride}", "zero"], [f"nothing{stride}"]),
                helper.make_node("Add", [f"nothing{stride}", "distances"], [f"box{stride}"]),
                helper.make_node("Add", [f"nothing{stride}", "offsets"], [f"points{stride}"]),
            ]
        for kind, width in (("score", 1), ("box", 4), ("points", 10)):
            for stride in (8, 16, 32):
                shapes[f"{kind}{stride}"] = [f"n{stride}", width]
        constants = {
            "red_minus_green": np.array([0.5, -0.5, 0], np.float32).reshape(1, 3, 1, 1),
            "half": np.array(0.5, np.float32),
            "ten": np.array(10, np.float32),
            "one": np.array(1, np.float32),
            "zero": np.array(0, np.float32),
            "column": np.array([-1, 1], np.int64),
            "distances": np.full((1, 4), 3, np.float32),
            "offsets": KPS.reshape(1, 10),
        }
        kept = dict(list(shapes.items())[: outputs + 1])
        return save_onnx(tmp_path / f"detector_{size}_{outputs}.onnx", nodes, constants, kept)

    return make


@pytest.fixture(scope="session")
def photos() -> Path:
    """The folder of real photos and networks; tests that want it are skipped where it is not."""
    if not PHOTOS.is_dir():
        pytest.skip(f"no real photos at {PHOTOS}")
    return PHOTOS


@pytest.fixture(scope="session")
def real_parser(photos: Path) -> FaceParser:
    return FaceParser.onnx(photos / "face_parser_19.onnx", mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))


@pytest.fixture(scope="session")
def real_analyzer(photos: Path, real_parser: FaceParser, recogniser_path: Path) -> FaceAnalyzer:
    """Finds and parses real faces; what it takes for their identity means nothing."""
    return FaceAnalyzer(OnnxDetector(photos / "scrfd_2.5g_kps.onnx"), OnnxRecogniser(recogniser_path), real_parser)
