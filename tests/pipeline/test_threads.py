"""How many threads torch takes on a CPU: those that the preset asks for, while it is at work."""

from __future__ import annotations

import pytest
import torch

from consistentid import ConsistentIDPipeline
from consistentid.errors import InputError
from consistentid.files.devices import torch_threads
from consistentid.presets.read import load_preset

ADA = "examples/portraits/ada.png"


@pytest.mark.parametrize(("asked", "taken"), [({}, 1), ({"threads": 0}, 3), ({"threads": 2}, 2)])
def test_small_networks_take_one_thread_where_others_want_the_cores(asked: dict[str, int], taken: int) -> None:
    studio = ConsistentIDPipeline.from_preset("drawn", device="cpu", **asked)
    seen: list[int] = []
    studio.encoder.image_encoder.register_forward_hook(lambda *_: seen.append(torch.get_num_threads()))
    with torch_threads(3):
        studio.identify(ADA)
        assert torch.get_num_threads() == 3
    assert set(seen) == {taken}


def test_a_number_of_threads_that_is_none() -> None:
    with pytest.raises(InputError, match="threads=-1 is not allowed; give an integer from 0"):
        load_preset("drawn").override(threads=-1)
