"""The page on the application: what it opens, and what it leaves alone."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import pytest
from fastapi.testclient import TestClient
from served import ADA, LOCAL, until_ready

from consistentid.pipeline.pipeline import ConsistentIDPipeline
from consistentid.presets.read import load_preset
from consistentid.serving.access import Access
from consistentid.serving.api import create_app
from consistentid.serving.page.mount import Page, available
from consistentid.serving.service import Service

TOKEN = "a" * 24

pytestmark = pytest.mark.skipif(not available(), reason="needs gradio, of the extra app")


@pytest.fixture(scope="module")
def seen() -> list[str]:
    """What `/` answered before the page was there."""
    return []


@pytest.fixture(scope="module")
def client(studio: ConsistentIDPipeline, seen: list[str]) -> Iterator[TestClient]:
    service = Service(lambda: studio)
    app = create_app(service, Access([TOKEN]), Page(service, load_preset("drawn")))
    with TestClient(app, LOCAL, raise_server_exceptions=False, headers={"Authorization": f"Bearer {TOKEN}"}) as client:
        for _ in range(3000):
            seen.append(client.get("/").text)
            if "gradio_config" in seen[-1]:
                break
            time.sleep(0.1)
        until_ready(client)
        yield client


def test_the_page_answers_before_it_is_built(client: TestClient, seen: list[str]) -> None:
    assert "One moment" in seen[0]
    assert "gradio_config" in seen[-1]
    answer = client.get("/")
    assert answer.status_code == 200
    assert "connect-src 'self'" in answer.headers["Content-Security-Policy"]


def test_no_address_of_elsewhere_is_fetched_by_the_page(client: TestClient) -> None:
    text = client.get("/").text
    for tag in ("<script", "<link"):
        for piece in text.split(tag)[1:]:
            head = piece.split(">")[0]
            assert "http" not in head, head
    config: Any = client.get("/config").json()
    assert config["analytics_enabled"] is False
    assert not config.get("stylesheets")


def test_only_what_a_browser_needs_of_gradio_is_open(client: TestClient) -> None:
    files = {"files": ("photo.png", ADA.read_bytes())}
    for path in ("/gradio_api/upload", "/upload", "/gradio_api/vibe-edit", "/gradio_api/run/predict", "/login"):
        answer = client.post(path, files=files)
        assert answer.status_code == 404, path
    for path in ("/gradio_api/info", "/gradio_api/file=/etc/passwd", "/file=/etc/passwd", "/monitoring", "/docs",
                 "/gradio_api/runs", "/assets/../../../etc/passwd", "/no/such"):  # fmt: skip
        assert client.get(path).status_code == 404, path


def test_the_service_answers_as_it_does_without_a_page(client: TestClient) -> None:
    assert client.get("/health").json()["status"] == "ok"
    assert "paths" in client.get("/openapi.json").json()
    assert "gradio" not in client.get("/openapi.json").text
    for method, path, status in (
        ("GET", "/v1/no-such", 404),
        ("DELETE", "/v1/portraits", 405),
        ("POST", "/ready", 405),
    ):
        answer = client.request(method, path)
        assert answer.status_code == status
        assert answer.json()["error"]["code"] == "no_route"
    made = client.post("/v1/identities", files={"photo": ADA.read_bytes()})
    assert made.status_code == 200, made.text


def test_the_page_asks_for_the_token(client: TestClient) -> None:
    for path in ("/", "/config", "/assets/x.js"):
        answer = client.get(path, headers={"Authorization": ""})
        assert answer.status_code == 401
        assert "Basic" in answer.headers["WWW-Authenticate"]
    typed = client.get("/", auth=("anybody", TOKEN))
    assert typed.request.headers["Authorization"].startswith("Basic ")
    assert typed.status_code == 200
