"""The shipped drawn preset, loaded once, and a few held-out drawn people."""

from __future__ import annotations

import pytest

from consistentid.evaluation.encoders import Encoders, load_encoders
from consistentid.evaluation.people import Person, draw_people
from consistentid.evaluation.protocol import Prompt, load_protocol
from consistentid.pipeline.pipeline import ConsistentIDPipeline

PROMPTS = load_protocol("drawn").prompts[:2]


@pytest.fixture(scope="session")
def studio() -> ConsistentIDPipeline:
    return ConsistentIDPipeline.from_preset("drawn", device="cpu", steps=2)


@pytest.fixture(scope="session")
def encoders(studio: ConsistentIDPipeline) -> Encoders:
    return load_encoders(studio)


@pytest.fixture(scope="session")
def people(tmp_path_factory: pytest.TempPathFactory) -> list[Person]:
    """Eight people, each with a reference and a real picture for each of two prompts."""
    return draw_people(tmp_path_factory.mktemp("people"), 8, PROMPTS)


@pytest.fixture(scope="session")
def prompts() -> tuple[Prompt, ...]:
    return PROMPTS
