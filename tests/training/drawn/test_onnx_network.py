"""Networks that are exported, and that go on from what was exported."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from PIL import Image
from torch import nn

from consistentid.errors import InputError
from consistentid.faces.parsing import FaceParser
from consistentid.training.drawn.onnx_network import Network, export, restore
from consistentid.training.drawn.parser import ParserNetwork

pytestmark = [
    pytest.mark.filterwarnings("ignore:You are using the legacy TorchScript:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:The feature will be removed:DeprecationWarning"),
]
RESNET = {"kind": "resnet", "embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1], "layer_type": "basic"}


def recogniser(seed: int) -> Network:
    torch.manual_seed(seed)
    return Network(32, 16, centred=True, **RESNET)


def parser(seed: int) -> ParserNetwork:
    torch.manual_seed(seed)
    return ParserNetwork(32, [8, 16])


def learnt(network: nn.Module) -> nn.Module:
    """A network whose batch norms are not as they were made."""
    for step in range(3):
        network.train()(torch.randn(16, 3, 32, 32, generator=torch.Generator().manual_seed(step)) * 2 + 1)
    for x in network.parameters():
        x.data += 0.05 * torch.randn(x.shape)
    return network.eval()


def samples() -> torch.Tensor:
    return torch.randn(64, 3, 32, 32, generator=torch.Generator().manual_seed(9))


@pytest.mark.parametrize("make", [recogniser, parser])
def test_a_network_goes_on_from_its_file(make, tmp_path: Path) -> None:
    path, x = tmp_path / "network.onnx", samples()
    export(learnt(make(1)), path, "found")
    (expected,) = onnxruntime.InferenceSession(path).run(None, {"input": x.numpy()})
    network = make(2)
    restore(network, path, x)
    if isinstance(network, ParserNetwork):
        np.testing.assert_allclose(network.train()(x).detach(), expected, atol=2e-3)  # by the samples' statistics
    np.testing.assert_allclose(network.eval()(x).detach(), expected, atol=2e-3)


def test_another_network_s_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "network.onnx"
    with pytest.raises(InputError, match=r"network\.onnx does not exist"):
        restore(recogniser(0), path, samples())
    export(parser(0), path, "found")
    with pytest.raises(InputError, match="is of another network than the recipe's"):
        restore(recogniser(0), path, samples())
    export(recogniser(0), path, "found")
    wider = Network(32, 16, centred=True, **{**RESNET, "hidden_sizes": [8, 24]})
    with pytest.raises(InputError, match="is of another network than the recipe's"):
        restore(wider, path, samples())


def test_a_parser_takes_pictures_of_any_shape(tmp_path: Path) -> None:
    path, network = tmp_path / "parser.onnx", learnt(parser(1))
    assert network.multiple == 8
    export(network, path, "logits", multiple=network.multiple)
    found = FaceParser.onnx(path, mean=[0.5] * 3, std=[0.5] * 3)
    assert found.size == 32
    x = torch.rand(2, 3, 32, 48)
    np.testing.assert_allclose(found.network(x), network(x).detach(), atol=5e-3)
    assert found.parse(Image.new("RGB", (96, 64))).shape == (64, 96)
