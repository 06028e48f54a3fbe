"""An attention sheet shows the very words that the adapter fused, over the very picture that came of them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

import tiny
from consistentid.adapter.identity import Identity
from consistentid.errors import InputError
from consistentid.pipeline.attention import attention_sheet, glowing, word_attention
from consistentid.pipeline.pipeline import ConsistentIDPipeline
from consistentid.pipeline.request import Request

PROMPT = "a woman in a red hat"


@pytest.fixture(scope="module")
def studio() -> ConsistentIDPipeline:
    return ConsistentIDPipeline.from_preset(tiny.preset(), device="cpu")


@pytest.fixture(scope="module")
def who(studio: ConsistentIDPipeline) -> Identity:
    return studio.identify(tiny.portrait())


def test_words_and_picture_are_those_of_the_request(studio: ConsistentIDPipeline, who: Identity) -> None:
    told = replace(who, face_text="Her nose is long")  # completed by the adapter with the parts that it leaves out
    for request in (
        Request(who, PROMPT, seed=3),
        Request(told, PROMPT, seed=3),
        Request(who, PROMPT, seed=3, face_text="A wide mouth."),
        Request(who, PROMPT, seed=3, parts={"eyes": "green eyes"}, guidance_scale=1.0),
        Request(who, PROMPT, seed=3, width=96, height=48, merge_at=1.0),
    ):
        image, maps = word_attention(studio.sampler, request, studio.preset.settings)
        assert request.identity is not None
        [text] = studio.adapter.facial_texts(
            request.identity, [PROMPT], face_text=request.face_text, parts=request.parts
        )
        assert tuple(maps) == text.words
        width, height = (side // studio.pipe.vae_scale_factor for side in image.size)
        for heat in maps.values():
            assert heat.shape == (height, width)
            assert heat.max() == pytest.approx(1)
        assert image.tobytes() == studio.sample(request).images[0].tobytes(), "looking changes nothing"
    assert set(word_attention(studio.sampler, Request(told, PROMPT, seed=3), studio.preset.settings)[1]) == set(
        who.visible_parts
    )


def test_only_one_picture_of_a_person_is_shown(studio: ConsistentIDPipeline, who: Identity) -> None:
    for request in (
        Request(who, [PROMPT, "a man"]),
        Request(who, PROMPT, num_images_per_prompt=2),
        Request(who, PROMPT, base_alone=True),
    ):
        with pytest.raises(InputError, match="attention is shown of one picture of a person"):
            word_attention(studio.sampler, request, studio.preset.settings)
    hooks = [len(layer._forward_pre_hooks) for layer in studio.pipe.unet.modules()]
    with pytest.raises(RuntimeError, match="no memory"):
        word_attention(studio.sampler, Request(who, PROMPT, progress=_fail), studio.preset.settings)
    assert [len(layer._forward_pre_hooks) for layer in studio.pipe.unet.modules()] == hooks, "nothing records any more"


def _fail(*_: object) -> None:
    raise RuntimeError("no memory")


def test_the_sheet_glows_where_a_word_looks() -> None:
    image = tiny.portrait()
    heat = np.zeros((8, 8), np.float32)
    heat[:4] = 1
    red = np.asarray(glowing(image, heat), int)
    assert red[:48, :, 0].mean() - red[:48, :, 2].mean() > 100
    assert np.abs(red[80:, :, 0] - red[80:, :, 2]).max() == 0
    sheet = attention_sheet([(image, {"eyes": heat}), (image, {"nose": heat})], [image])
    assert sheet.width > 4 * 160, "the reference, the picture and two words"
