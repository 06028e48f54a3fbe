"""The networks reproduce the reference implementation's outputs on the same weights.

They compute in float64 here, so that no processor's rounding matters: what is left is that of the recording, which was
made in float32 and is off by up to 1e-5, in one case by 1.2e-5.
"""

import json

import pytest
import torch

from vectors import DIM, GOLDEN, VARIANTS, WIDTH  # isort: skip
import recipe  # isort: skip
from safetensors.torch import load_file

from consistentid.adapter.nn.facial_encoder import FacialEncoder
from consistentid.adapter.nn.image_projection import ImageProjection

CASES = json.loads((GOLDEN / "inputs" / "facial_encoder_cases.json").read_text())
INVENTORY = {variant: json.loads((GOLDEN / "inventory" / f"{variant}.json").read_text()) for variant in VARIANTS}


@pytest.fixture(params=VARIANTS)
def variant(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def expected(variant: str) -> dict[str, torch.Tensor]:
    return load_file(GOLDEN / "cases" / f"modules_{variant}.safetensors")


def weights(variant: str, *names: str) -> dict[str, torch.Tensor]:
    components = INVENTORY[variant]["components"]
    component = next(components[name] for name in names if name in components)
    state = recipe.state_dict(component["keys"], component["seed"], component["prefix"])
    return {key: torch.from_numpy(value) for key, value in state.items()}


def tensor(name: str, *shape: int) -> torch.Tensor:
    return torch.from_numpy(recipe.tensor(name, shape)).double()


def assert_recorded(found: torch.Tensor, recorded: torch.Tensor, atol: float = 1e-5) -> None:
    torch.testing.assert_close(found, recorded.double(), atol=atol, rtol=0)


@pytest.fixture
def facial_encoder(variant: str) -> FacialEncoder:
    encoder = FacialEncoder(WIDTH, DIM, dim=128, depth=2, heads=2)
    encoder.load_state_dict(weights(variant, "FacialEncoder"))
    return encoder.double().requires_grad_(False)


@pytest.mark.parametrize(
    ("name", "shortcut", "scale"),
    [("shortcut_false", False, 1.0), ("shortcut_true", True, 1.0), ("shortcut_true_scale0.5", True, 0.5)],
)
@torch.no_grad()
def test_image_projection(variant: str, expected: dict, name: str, shortcut: bool, scale: float) -> None:
    projection = ImageProjection(512, WIDTH, DIM, shortcut=shortcut, resampled_scale=scale)
    projection.load_state_dict(weights(variant, "image_proj", "image_proj_model"))
    id = torch.nn.functional.normalize(tensor("case1.id", 2, 512), dim=1)
    id[1] = 0
    tokens = projection.double()(id, tensor(f"case1.clip.{WIDTH}", 2, 257, WIDTH))
    assert_recorded(tokens, expected[f"case1.{name}"])


def facial_case(name: str) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    positions, counts = CASES[name]
    batch = len(positions)
    text = tensor(f"case2.{name}.prompt.{DIM}", batch, 77, DIM)
    pictures = tensor(f"case2.{name}.img.{WIDTH}", batch, 5, 257, WIDTH)
    token_mask = torch.zeros(batch, 77, dtype=torch.bool)
    for row, columns in enumerate(positions):
        token_mask[row, columns] = True
    return text, pictures, token_mask, torch.arange(5) < torch.tensor(counts).unsqueeze(1)


@pytest.mark.parametrize("name", CASES)
@torch.no_grad()
def test_facial_encoder_fuses_the_marked_words_and_nothing_else(
    facial_encoder: FacialEncoder, expected: dict, name: str
) -> None:
    text, pictures, token_mask, part_mask = facial_case(name)
    before = text.clone()
    fused = facial_encoder(text, pictures, token_mask, part_mask)
    assert_recorded(fused[token_mask], expected[f"case2.{name}.rows"])
    assert torch.equal(fused[~token_mask], before[~token_mask])
    assert torch.equal(text, before), "fusing wrote into its argument"


@torch.no_grad()
def test_one_token_a_picture(facial_encoder: FacialEncoder, expected: dict) -> None:
    _, pictures, _, _ = facial_case("five")
    tokens = facial_encoder.visual_projection(pictures[0])
    assert_recorded(tokens, expected["case2.visual_projection"], atol=1.2e-5)
