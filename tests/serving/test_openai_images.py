"""The stock client of OpenAI against the service."""

from __future__ import annotations

import base64
import json

import openai
import pytest
from fastapi.testclient import TestClient
from served import ADA

SMALL = {"num_inference_steps": 2, "seed": 3}


@pytest.fixture(scope="session")
def stock(client: TestClient) -> openai.OpenAI:
    return openai.OpenAI(
        base_url=str(client.base_url) + "/v1", api_key="unused", http_client=client, max_retries=0
    )  # the application within this process, by the client's own transport


def test_edits_are_portraits_of_the_person_on_the_images(stock: openai.OpenAI, client: TestClient) -> None:
    with ADA.open("rb") as first, ADA.open("rb") as second:
        made = stock.images.edit(
            image=[first, second], prompt="a woman in a red hat", n=2, size="auto", extra_body=SMALL
        )
    request = {"prompt": "a woman in a red hat", "num_images_per_prompt": 2, **SMALL}
    files = [("photo", ADA.read_bytes())] * 2
    same = client.post("/v1/portraits", data={"request": json.dumps(request)}, files=files).json()
    assert made.data is not None
    assert [picture.b64_json for picture in made.data] == [picture["b64_json"] for picture in same["pictures"]]


def test_generations_with_an_identity_and_without(stock: openai.OpenAI) -> None:
    identity = base64.b64encode(ADA.read_bytes()).decode()
    nobody = stock.images.generate(
        prompt="a woman in a red hat", n=1, size="64x64", response_format="b64_json", model="any", extra_body=SMALL
    )  # type: ignore[call-overload]
    assert base64.b64decode(nobody.data[0].b64_json).startswith(b"\x89PNG")
    with pytest.raises(openai.BadRequestError, match="not a readable safetensors"):
        stock.images.generate(prompt="a woman", extra_body={"identity": identity})


def test_what_is_not_done_here_is_refused_in_words_that_the_client_shows(stock: openai.OpenAI) -> None:
    for arguments, words in (
        ({"prompt": "x", "size": "big"}, "size"),
        ({"prompt": "x", "size": "65x64"}, "multiple of 8"),
        ({"prompt": "x", "response_format": "url"}, "b64_json"),
        ({"prompt": "x", "n": 9}, "at most 4"),
        ({"prompt": ""}, "prompt"),
        ({"prompt": "x", "extra_body": {"nothing": 1}}, "unknown field 'nothing'"),
    ):
        with pytest.raises(openai.BadRequestError, match=words):
            stock.images.generate(**arguments)
    with pytest.raises(openai.BadRequestError, match="is not a picture"):
        stock.images.edit(image=b"no picture", prompt="x")
