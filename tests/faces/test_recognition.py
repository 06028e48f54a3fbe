from pathlib import Path

import numpy as np
import pytest
from hand_drawn import save_onnx
from onnx import helper
from PIL import Image

from consistentid.errors import CheckpointError
from consistentid.faces.alignment import TEMPLATE
from consistentid.faces.recognition import OnnxRecogniser


def test_embedding_is_the_networks_output_for_rgb_in_minus_one_to_one(
    recogniser_path: Path, recogniser_weights: np.ndarray
) -> None:
    pixels = np.random.RandomState(1).randint(0, 256, (8, 8, 3)).astype(np.uint8)
    image = Image.fromarray(pixels.repeat(14, axis=0).repeat(14, axis=1))
    mosaic = pixels.transpose(2, 0, 1).astype(np.float32) / 127.5 - 1
    expected = mosaic.ravel() @ recogniser_weights
    embedding = OnnxRecogniser(recogniser_path).embed(image, TEMPLATE)
    assert embedding.dtype == np.float32
    np.testing.assert_allclose(embedding, expected / np.linalg.norm(expected), atol=1e-3)
    wrong_order = mosaic[::-1].ravel() @ recogniser_weights
    assert embedding @ wrong_order / np.linalg.norm(wrong_order) < 0.9


def test_missing_broken_and_foreign_files(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"absent\.onnx"):
        OnnxRecogniser(tmp_path / "absent.onnx")
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(b"PK\x03\x04 not a network")
    with pytest.raises(CheckpointError, match=r"broken\.onnx is not a usable ONNX network"):
        OnnxRecogniser(broken)
    shapes: dict[str, list[int | str]] = {"input": ["b", 3, 64, 64], "output": ["b", 12288]}
    foreign = save_onnx(tmp_path / "foreign.onnx", [helper.make_node("Flatten", ["input"], ["output"])], {}, shapes)
    with pytest.raises(CheckpointError, match=r"foreign\.onnx is not a face recogniser.*64, 64.*needed.*112"):
        OnnxRecogniser(foreign)
