"""A complete preset of tiny networks of the real classes, and drawings whose faces it finds.

All weights are random, save the parser's last layer: it is fitted, in closed form, to tell the drawings' colours apart,
so that detection, parts and recognition have something real to work on.
"""

from __future__ import annotations

import atexit
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import onnx
import torch
import yaml
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    EulerDiscreteScheduler,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from onnx import TensorProto, helper, numpy_helper
from PIL import Image, ImageDraw
from transformers import (
    CLIPImageProcessorPil,
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    CLIPVisionConfig,
    CLIPVisionModelWithProjection,
    SegformerConfig,
    SegformerForSemanticSegmentation,
    SegformerImageProcessorPil,
)

from consistentid.adapter.adapter import ConsistentID
from consistentid.adapter.spec import AdapterSpec
from consistentid.files.weights import fingerprint

TOKENIZER = Path(__file__).parent / "golden" / "tokenizer" / "tokenizer"
COLOURS = {0: "#7fb2e5", 1: "#e8b48c", 4: "#1c3fd0", 5: "#1c3fd0", 7: "#b0503c", 8: "#b0503c", 10: "#f5e65a"}
COLOURS |= {12: "#d01c50", 13: "#f060a0", 16: "#30a040", 17: "#402010"}


def draw(
    *centres: tuple[int, int], size: tuple[int, int] = (128, 128), mouth: int = 12
) -> tuple[Image.Image, np.ndarray]:
    """A picture with a face of about 50x60 pixels at each centre, and its CelebAMask-HQ labels."""
    image, labels = Image.new("RGB", size, COLOURS[0]), Image.new("L", size, 0)

    def oval(label: int, x: float, y: float, rx: float, ry: float) -> None:
        for canvas, colour in ((image, COLOURS[label]), (labels, label)):
            ImageDraw.Draw(canvas).ellipse((x - rx, y - ry, x + rx, y + ry), fill=colour)

    for x, y in centres:
        oval(16, x, y + 58, 30, 24)
        oval(17, x, y - 12, 30, 28)
        oval(7, x - 27, y + 2, 6, 9)
        oval(8, x + 27, y + 2, 6, 9)
        oval(1, x, y, 25, 31)
        oval(4, x - 10, y - 6, 6, 5)
        oval(5, x + 10, y - 6, 6, 5)
        oval(10, x, y + 5, 4, 6)
        oval(12, x, y + 17, mouth, 4)
        oval(13, x, y + 20, mouth - 2, 3)
    return image, np.asarray(labels)


def portrait(mouth: int = 12) -> Image.Image:
    """One face in the middle."""
    return draw((64, 58), mouth=mouth)[0]


@cache
def preset() -> Path:
    """The preset's folder, made once a test run: copy it before you change anything."""
    home = TemporaryDirectory()
    atexit.register(home.cleanup)
    return _build(Path(home.name))


def _build(folder: Path) -> Path:
    torch.manual_seed(0)
    _base().save_pretrained(folder / "base")
    _image_encoder(folder / "image_encoder")
    _parser(folder / "parser")
    _recogniser(folder / "recogniser.onnx")
    _adapter(folder)
    content = {
        "name": "tiny",
        "base": "./base",
        "adapter": "./adapter",
        "image_encoder": "./image_encoder",
        "parser": {"kind": "segformer", "path": "./parser"},
        "detector": {"kind": "labels"},
        "recogniser": {"kind": "onnx", "path": "./recogniser.onnx"},
        "scheduler": "DDIMScheduler",
        "settings": {"steps": 2, "merge_at": 0.25, "batch_size": 2},
    }
    (folder / "preset.yaml").write_text(yaml.safe_dump(content))
    return folder


def _base() -> StableDiffusionPipeline:
    text = CLIPTextConfig(
        vocab_size=815, hidden_size=32, intermediate_size=37, num_hidden_layers=2, num_attention_heads=4,
        bos_token_id=813, eos_token_id=814, pad_token_id=814,
    )  # fmt: skip
    return StableDiffusionPipeline(
        vae=AutoencoderKL(
            block_out_channels=(8, 16, 16), norm_num_groups=4, latent_channels=4, sample_size=64,
            down_block_types=("DownEncoderBlock2D",) * 3, up_block_types=("UpDecoderBlock2D",) * 3,
        ),
        text_encoder=CLIPTextModel(text),
        tokenizer=CLIPTokenizer.from_pretrained(TOKENIZER),
        unet=UNet2DConditionModel(
            sample_size=16, block_out_channels=(16, 32), layers_per_block=1, norm_num_groups=4, attention_head_dim=4,
            cross_attention_dim=32, down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        ),
        scheduler=DDIMScheduler(beta_schedule="scaled_linear", clip_sample=False, steps_offset=1),
        safety_checker=None, feature_extractor=None, requires_safety_checker=False,
    )  # fmt: skip


def xl_base() -> StableDiffusionXLPipeline:
    """A base of the SDXL family, its two text encoders of different widths."""
    torch.manual_seed(0)

    def text(width: int) -> CLIPTextConfig:
        return CLIPTextConfig(
            vocab_size=815, hidden_size=width, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2,
            projection_dim=16, bos_token_id=813, eos_token_id=814, pad_token_id=814,
        )  # fmt: skip

    tokenizer = CLIPTokenizer.from_pretrained(TOKENIZER)
    return StableDiffusionXLPipeline(
        vae=AutoencoderKL(block_out_channels=(8, 16), norm_num_groups=4, sample_size=32,
            down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2),
        text_encoder=CLIPTextModel(text(12)), text_encoder_2=CLIPTextModelWithProjection(text(20)),
        tokenizer=tokenizer, tokenizer_2=tokenizer,
        unet=UNet2DConditionModel(
            sample_size=16, block_out_channels=(16, 32), layers_per_block=1, norm_num_groups=4, attention_head_dim=4,
            cross_attention_dim=32, down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"), addition_embed_type="text_time",
            addition_time_embed_dim=4, projection_class_embeddings_input_dim=40,
        ),
        scheduler=EulerDiscreteScheduler(),
    )  # fmt: skip


def _image_encoder(folder: Path) -> None:
    config = CLIPVisionConfig(
        hidden_size=32, intermediate_size=37, num_hidden_layers=2, num_attention_heads=4, image_size=32, patch_size=8,
        projection_dim=32,
    )  # fmt: skip
    CLIPVisionModelWithProjection(config).save_pretrained(folder)
    CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}).save_pretrained(folder)


def _parser(folder: Path) -> None:
    config = SegformerConfig(
        num_encoder_blocks=2, depths=[1, 1], hidden_sizes=[32, 32], num_attention_heads=[1, 1], sr_ratios=[8, 4],
        patch_sizes=[3, 3], strides=[2, 2], mlp_ratios=[1, 1], decoder_hidden_size=192, num_labels=19,
    )  # fmt: skip
    network = SegformerForSemanticSegmentation(config).eval()
    processor = SegformerImageProcessorPil(size={"height": 128, "width": 128})
    pictures = [draw((64, 58)), draw((34, 50), (94, 60), mouth=9), draw((50, 70), mouth=14), draw()]
    inputs = torch.cat([processor(image, return_tensors="pt")["pixel_values"] for image, _ in pictures])
    seen: list[torch.Tensor] = []
    hook = network.decode_head.classifier.register_forward_hook(lambda _m, args, _o: seen.append(args[0]))
    with torch.no_grad():
        height = network(inputs).logits.shape[-1]
    hook.remove()
    step = 128 // height
    labels = torch.stack(
        [torch.from_numpy(np.array(label))[step // 2 :: step, step // 2 :: step] for _, label in pictures]
    )
    features = seen[0].permute(0, 2, 3, 1).reshape(-1, seen[0].shape[1]).double()
    features = torch.cat([features, torch.ones(len(features), 1).double()], 1)
    wanted = torch.nn.functional.one_hot(labels.reshape(-1).long(), 19).double()
    solved = torch.linalg.solve(
        features.T @ features + 1e-6 * torch.eye(features.shape[1]).double(), features.T @ wanted
    ).float()
    with torch.no_grad():
        network.decode_head.classifier.weight.copy_(solved[:-1].T[..., None, None])
        network.decode_head.classifier.bias.copy_(solved[-1])
    network.save_pretrained(folder)
    processor.save_pretrained(folder)


def _recogniser(path: Path) -> None:
    """Averages of 16x16 pixels, then a random linear map."""
    weight = np.random.default_rng(0).standard_normal((3 * 7 * 7, 512)).astype(np.float32)
    graph = helper.make_graph(
        [
            helper.make_node("AveragePool", ["pixels"], ["means"], kernel_shape=[16, 16], strides=[16, 16]),
            helper.make_node("Flatten", ["means"], ["flat"]),
            helper.make_node("MatMul", ["flat", "weight"], ["embedding"]),
        ],
        "recogniser",
        [helper.make_tensor_value_info("pixels", TensorProto.FLOAT, ["batch", 3, 112, 112])],
        [helper.make_tensor_value_info("embedding", TensorProto.FLOAT, ["batch", 512])],
        [numpy_helper.from_array(weight, "weight")],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)


def _adapter(folder: Path) -> None:
    networks = {
        "recogniser": fingerprint(folder / "recogniser.onnx"),
        "image_encoder": fingerprint(folder / "image_encoder"),
        "parser": fingerprint(folder / "parser"),
    }
    spec = AdapterSpec(
        clip_dim=32, text_dim=32, dim_head=8, id_hidden=32, id_depth=1, id_heads=4, facial_dim=32, facial_depth=1,
        facial_heads=4, lora_rank=4, networks=networks,
    )  # fmt: skip
    adapter = ConsistentID(spec)
    with adapter.attached(StableDiffusionPipeline.from_pretrained(folder / "base")):
        adapter.save_pretrained(folder / "adapter")
