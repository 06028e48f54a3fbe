import json
import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
import recipe
import synth
import torch
import yaml
from hand_drawn import GOLDEN, PALETTE, colour_parser, face_labels, picture, save_onnx
from onnx import helper
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import SegformerConfig, SegformerForSemanticSegmentation, SegformerImageProcessorPil

import tiny
from consistentid.errors import CheckpointError, InputError
from consistentid.faces.parsing import FaceParser, label_order
from consistentid.faces.parts import LABELS
from consistentid.presets.loading import load_analyzer
from consistentid.presets.read import load_preset

CELEBA = [
    "skin", "l_brow", "r_brow", "l_eye", "r_eye", "eye_g", "l_ear", "r_ear", "ear_r",
    "nose", "mouth", "u_lip", "l_lip", "neck", "neck_l", "cloth", "hair", "hat",
]  # fmt: skip


@pytest.fixture(scope="module")
def bisenet_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    inventory = json.loads((GOLDEN / "inventory" / "face_parsing_bisenet.json").read_text())
    weights = recipe.state_dict(inventory["keys"], inventory["seed"], inventory["prefix"])
    path = tmp_path_factory.mktemp("bisenet") / "face_parsing.pth"
    torch.save({key: torch.from_numpy(value) for key, value in weights.items()}, path)
    return path


def segformer(folder: Path, names: dict[int, str] | None = None) -> FaceParser:
    torch.manual_seed(0)
    labels = {"id2label": names} if names else {"num_labels": 19}
    config = SegformerConfig(
        hidden_sizes=[8, 8, 16, 16], depths=[1] * 4, num_attention_heads=[1] * 4, decoder_hidden_size=16, **labels
    )
    SegformerForSemanticSegmentation(config).save_pretrained(folder)
    SegformerImageProcessorPil(size={"height": 64, "width": 64}).save_pretrained(folder)
    return FaceParser.segformer(folder)


def test_bisenet_equals_the_reference(bisenet_path: Path) -> None:
    parser = FaceParser.bisenet(bisenet_path)
    expected = load_file(GOLDEN / "cases" / "bisenet.safetensors")
    with torch.no_grad():
        logits = parser.network(torch.from_numpy(recipe.tensor("bisenet.in", (1, 3, 128, 96))))
    torch.testing.assert_close(logits, expected["out"], atol=1e-5, rtol=0)


def test_bisenet_input_equals_the_reference(bisenet_path: Path) -> None:
    expected = np.load(GOLDEN / "cases" / "clip_images.npz")
    pixels = FaceParser.bisenet(bisenet_path).pixels(Image.fromarray(synth.photo(300, 220)))[0]
    assert pixels.shape == (3, 512, 512)
    np.testing.assert_allclose(pixels[:, ::16, ::16], expected["sd15/bisenet_input_sub"], atol=1e-5)


def test_bisenet_refuses_other_files(tmp_path: Path, bisenet_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"no face parser .*absent\.pth"):
        FaceParser.bisenet(tmp_path / "absent.pth")
    truncated = tmp_path / "truncated.pth"
    truncated.write_bytes(bisenet_path.read_bytes()[:100_000])
    with pytest.raises(CheckpointError, match=r"truncated\.pth is not a readable weights file"):
        FaceParser.bisenet(truncated)
    foreign = tmp_path / "foreign.pth"
    torch.save({"weight": torch.zeros(3)}, foreign)
    with pytest.raises(CheckpointError, match=r"foreign\.pth is not a BiSeNet face parser.*cp\.resnet\.conv1\.weight"):
        FaceParser.bisenet(foreign)
    code = tmp_path / "code.pth"
    torch.save({"weight": Path("not a tensor")}, code)
    with pytest.raises(CheckpointError, match=r"code\.pth is not a readable weights file"):
        FaceParser.bisenet(code)


def test_labels_have_the_pictures_size_and_place() -> None:
    parser = colour_parser(128)
    labels = face_labels(128, 96, (64, 48, 60))
    np.testing.assert_array_equal(parser.parse(picture(labels)), labels)
    large = np.kron(labels, np.ones((10, 10), np.uint8))
    assert (parser.parse(picture(large)) == large).mean() > 0.97
    upright = labels.T.copy()
    np.testing.assert_array_equal(parser.parse(picture(upright)), upright)


def test_padding_shows_no_black_bars() -> None:
    """Were the borders black, the network would see a label that the picture does not have."""

    class Darkness(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = torch.nn.Parameter(torch.ones(1))

        def forward(self, pixels: torch.Tensor) -> torch.Tensor:
            darkest = pixels.amin() * self.weight
            return (
                torch.nn.functional.one_hot((darkest < 0.1).long() * 18, 19)
                .float()
                .view(1, 19, 1, 1)
                .expand(1, 19, 8, 8)
            )

    network = FaceParser(Darkness(), size=64, mean=(0, 0, 0), std=(1, 1, 1))
    assert network.parse(Image.new("RGB", (200, 50), "white")).max() == 0


def test_segformer_runs_as_transformers_runs_it(tmp_path: Path) -> None:
    parser = segformer(tmp_path)
    image = Image.fromarray(np.random.RandomState(0).randint(0, 256, (64, 64, 3)).astype(np.uint8))
    processor = SegformerImageProcessorPil.from_pretrained(tmp_path)
    network = SegformerForSemanticSegmentation.from_pretrained(tmp_path)
    with torch.no_grad():
        output = network(**processor(images=image, return_tensors="pt"))
    (expected,) = processor.post_process_semantic_segmentation(output, target_sizes=[(64, 64)])
    labels = parser.parse(image)
    assert len(np.unique(labels)) > 1
    np.testing.assert_array_equal(labels, expected.numpy())


def test_segformer_classes_follow_their_names(tmp_path: Path) -> None:
    image = Image.fromarray(np.random.RandomState(0).randint(0, 256, (64, 64, 3)).astype(np.uint8))
    plain = segformer(tmp_path / "plain").parse(image)
    order = np.random.RandomState(1).permutation(19)
    names = ["background", *CELEBA]
    named = segformer(tmp_path / "named", {index: names[label] for index, label in enumerate(order)}).parse(image)
    np.testing.assert_array_equal(named, order[plain])


def test_label_names_of_both_kinds() -> None:
    assert label_order(dict(enumerate(["background", *CELEBA])), "n") == list(range(19))
    assert label_order(dict(enumerate(LABELS)), "n") == list(range(19))
    with pytest.raises(CheckpointError, match=r"some/net is not.*it has 3.*skin"):
        label_order({0: "background", 1: "road", 2: "sky"}, "some/net")
    with pytest.raises(CheckpointError, match="it has 2"):
        label_order({0: "LABEL_0", 1: "LABEL_1"}, "some/net")


def test_segformer_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="is not a usable SegFormer"):
        FaceParser.segformer(tmp_path / "absent")


def test_segformer_without_all_its_weights(tmp_path: Path) -> None:
    segformer(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    del weights["decode_head.classifier.weight"]
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match=r"the SegFormer parser .* lacks the weights decode_head\.classifier"):
        FaceParser.segformer(tmp_path)


def test_large_pictures_keep_their_size() -> None:
    labels = colour_parser(128).parse(picture(face_labels(1500, 1200, (750, 600, 700))))
    assert labels.shape == (1200, 1500)
    assert labels[656, 750] == 10


# ---------------------------------------------------------------------------------------------------------------- ONNX


def onnx_parser(
    path: Path,
    batch: int | str = "batch",
    side: int | str = 64,
    order: tuple[int, ...] = tuple(range(19)),
    more: int = 1,
) -> Path:
    """`NearestColour` as a file, its classes in another order; `more` outputs of another kind stand before them."""
    colours = (PALETTE.astype(np.float32) / 255)[list(order)]
    nodes = [helper.make_node("Conv", ["input", "weight", "bias"], ["logits"])]
    nodes += [helper.make_node("ReduceMean", ["input"], [f"mean{n}"], axes=[2, 3], keepdims=0) for n in range(more)]
    sides = [side, side] if isinstance(side, int) else [f"{side} {n}" for n in range(2)]
    shapes = {"input": [batch, 3, *sides], **{f"mean{n}": [batch, 3] for n in range(more)}}
    constants = {"weight": 2 * colours[:, :, None, None], "bias": -np.square(colours).sum(axis=1)}
    return save_onnx(path, nodes, constants, {**shapes, "logits": [batch, 19, *sides]})


@pytest.mark.parametrize("batch", ["batch", 1])
@pytest.mark.parametrize("side", [64, "side"])
def test_a_parser_as_onnx_reads_what_the_same_network_reads(tmp_path: Path, batch: int | str, side: int | str) -> None:
    size = {} if side == 64 else {"size": 64}
    parser = FaceParser.onnx(onnx_parser(tmp_path / "p.onnx", batch, side), mean=(0, 0, 0), std=(1, 1, 1), **size)
    images = [picture(face_labels(64, 64, (30, 30, 40))), picture(face_labels(90, 64, (50, 30, 30)))]
    for ours, expected in zip(parser.parse_batch(images), colour_parser(64).parse_batch(images), strict=True):
        np.testing.assert_array_equal(ours, expected)


def test_normalisation_and_order_of_an_onnx_parser_are_options(tmp_path: Path) -> None:
    order = tuple(np.random.RandomState(1).permutation(19).tolist())
    path = onnx_parser(tmp_path / "p.onnx", order=order)
    image = picture(face_labels(64, 64, (30, 30, 40)))
    expected = colour_parser(64).parse(image)
    options = {"mean": (0, 0, 0), "std": (1, 1, 1)}
    parser = FaceParser.onnx(path, labels=[LABELS[label] for label in order], **options)
    np.testing.assert_array_equal(parser.parse(image), expected)
    assert (FaceParser.onnx(path, **options).parse(image) != expected).any()
    assert (FaceParser.onnx(path, labels=[LABELS[label] for label in order]).parse(image) != expected).any()


def test_other_onnx_files_and_wrong_options_are_refused(tmp_path: Path, recogniser_path: Path) -> None:
    path = onnx_parser(tmp_path / "p.onnx")
    for arguments, message in (
        ({"path": tmp_path / "none.onnx"}, "none.onnx: no such file"),
        ({"path": recogniser_path}, r"recogniser\.onnx is not a face parser: it maps .* needed is"),
        ({"path": path, "labels": LABELS[:18]}, "is not a parser of the 19"),
        ({"path": path, "size": 128}, "takes pictures of 64 pixels, size=128 is wrong"),
        ({"path": path, "std": (1, 0, 1)}, r"std=\[1, 0, 1\] of"),
    ):
        with pytest.raises(CheckpointError, match=message):
            FaceParser.onnx(**arguments)


def told(path: Path, **metadata: str) -> Path:
    model = onnx.load(path)
    helper.set_model_props(model, metadata)
    onnx.save(model, path)
    return path


def test_a_file_may_say_that_it_takes_pictures_of_any_shape(tmp_path: Path) -> None:
    path = told(onnx_parser(tmp_path / "p.onnx", side="side"), side="64", multiple="16")
    parser = FaceParser.onnx(path, mean=(0, 0, 0), std=(1, 1, 1))
    assert parser.size == 64
    shapes: list[tuple[int, ...]] = []
    parser.network.register_forward_pre_hook(lambda _, given: shapes.append(tuple(given[0].shape[2:])))
    for size, seen in (
        ((64, 64), (64, 64)), ((128, 64), (64, 128)), ((64, 100), (112, 64)), ((400, 200), (64, 128)),
        ((1000, 10), (16, 128)), ((3, 9), (128, 48)),
    ):  # fmt: skip
        assert parser.parse(Image.new("RGB", size)).shape == size[::-1]
        assert shapes[-1] == seen
    wide = face_labels(128, 64, (90, 32, 40))
    images = [picture(labels) for labels in (face_labels(64, 64, (30, 30, 40)), wide, wide.T.copy())]
    expected = [face_labels(64, 64, (30, 30, 40)), wide, wide.T]
    sure = [labels for labels, _ in parser.parse_surely(images)]
    for found in (parser.parse_batch(images), sure):
        for labels, right in zip(found, expected, strict=True):
            np.testing.assert_array_equal(labels, right)
    assert (colour_parser(64).parse(images[1]) != wide).any(), (
        "in a square it is half as large, and thin labels are lost"
    )
    with pytest.raises(CheckpointError, match="multiple='0' of its metadata is not allowed"):
        FaceParser.onnx(told(path, side="64", multiple="0"))


def test_a_preset_names_an_onnx_parser_with_its_options(tmp_path: Path) -> None:
    path = onnx_parser(tmp_path / "p.onnx")
    preset = {**yaml.safe_load((tiny.preset() / "preset.yaml").read_text())}
    shutil.copytree(tiny.preset(), tmp_path / "preset")
    preset["parser"] = {"kind": "onnx", "path": str(path), "options": {"mean": [0, 0, 0], "std": [1, 1, 1]}}
    file = tmp_path / "preset" / "preset.yaml"
    file.write_text(yaml.safe_dump(preset))
    analyzer = load_analyzer(load_preset(file))
    image = picture(face_labels(64, 64, (30, 30, 40)))
    np.testing.assert_array_equal(analyzer.parser.parse(image), colour_parser(64).parse(image))
    preset["parser"]["options"] = {"colour": "BGR"}
    file.write_text(yaml.safe_dump(preset))
    with pytest.raises(InputError, match=r"parser: options {'colour': 'BGR'} are not known; allowed are size, mean"):
        load_preset(file)


def test_a_real_onnx_parser_reads_a_real_face(real_parser: FaceParser) -> None:
    astronaut = Image.fromarray(pytest.importorskip("skimage.data").astronaut()).crop((100, 0, 360, 260))
    labels = real_parser.parse(astronaut)
    assert labels.shape == (260, 260)
    assert labels[118, 125] == 10, "the nose"
    assert (labels[110:150, 90:170] == 1).mean() > 0.4, "the cheeks"
    assert labels[30, 110] == 17, "the hair"
