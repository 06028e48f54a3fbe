"""One application over the drawn preset for all tests of the service."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from fastapi.testclient import TestClient
from served import LOCAL, until_ready

from consistentid.pipeline.pipeline import ConsistentIDPipeline
from consistentid.serving.api import create_app
from consistentid.serving.limits import Limits
from consistentid.serving.notes import routed
from consistentid.serving.service import Service


@pytest.fixture(autouse=True)
def _warnings_for_clients() -> Iterator[None]:
    """As while the service runs: pytest undoes at each test what it said of warnings when it began."""
    with routed():
        yield


@pytest.fixture(scope="session")
def studio() -> ConsistentIDPipeline:
    return ConsistentIDPipeline.from_preset("drawn", device="cpu")


@pytest.fixture(scope="session")
def service(studio: ConsistentIDPipeline) -> Service:
    return Service(lambda: studio, Limits(body_bytes=4 << 20, pixels=1_000_000, pictures=4, steps=50, photos=3))


@pytest.fixture(scope="session")
def client(service: Service) -> Iterator[TestClient]:
    with TestClient(create_app(service), LOCAL, raise_server_exceptions=False) as client:
        until_ready(client)
        yield client
