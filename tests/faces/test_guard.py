"""Photographs are told from drawings."""

import pytest
import skimage.data
from PIL import Image

from consistentid.data.portraits import draw, sample_people, sample_scenes
from consistentid.errors import PhotographError
from consistentid.faces.guard import DrawingGuard


@pytest.mark.parametrize("box", [(0, 0, 512, 512), (100, 0, 400, 300), (150, 0, 300, 150)])
def test_the_astronaut_is_a_photograph(box) -> None:
    with pytest.raises(PhotographError, match=r"photograph.*sd15"):
        DrawingGuard()(Image.fromarray(skimage.data.astronaut()).crop(box))


@pytest.mark.parametrize("size", [64, 128, 192])
def test_drawings_of_every_style_pass(size) -> None:
    count = 60
    drawn = draw(sample_people(count, split="test"), sample_scenes([(i, 5) for i in range(count)], split="test"), size)
    for picture in (drawn.images * 255).round().byte().permute(0, 2, 3, 1).numpy():
        DrawingGuard()(Image.fromarray(picture))
