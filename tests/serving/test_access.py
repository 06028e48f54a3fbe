from __future__ import annotations

import base64
from pathlib import Path

import pytest

from consistentid.errors import InputError
from consistentid.serving.access import Access, read_tokens
from consistentid.serving.address import is_loopback
from consistentid.serving.refusal import RefusedError

TOKEN, OTHER = "a" * 24, "b" * 24


def scope(path: str = "/v1/portraits", **headers: str) -> dict[str, object]:
    named = {"host": "localhost:7860"} | headers
    return {
        "type": "http",
        "path": path,
        "client": ("10.1.2.3", 5),
        "headers": [(name.encode(), value.encode()) for name, value in named.items()],
    }


def test_a_token_is_asked_for_and_not_told() -> None:
    access = Access([TOKEN, OTHER])
    names = [access.client(scope(authorization=f"Bearer {token}")) for token in (TOKEN, OTHER)]
    assert len(set(names)) == 2
    assert not any(token in name for token in (TOKEN, OTHER) for name in names)
    typed = base64.b64encode(f"me:{TOKEN}".encode()).decode()
    assert access.client(scope(authorization=f"Basic {typed}")) == names[0], "as browsers send what was typed"
    assert access.client(scope("/health"))
    for given in (TOKEN, f"Bearer {TOKEN}x", "Bearer é", f"Basic {TOKEN}", "Basic bWU6", f"Digest {TOKEN}", ""):
        bad = {"authorization": given} if given else {}
        with pytest.raises(RefusedError) as refused:
            access.client(scope(**bad))
        assert refused.value.status == 401
        assert "Basic" in refused.value.headers["WWW-Authenticate"], "so that a browser asks for it"
    with pytest.raises(RefusedError):
        access.client(scope("/metrics"))


@pytest.mark.parametrize("origin", ["https://evil.example", "null", "http://localhost:1"])
def test_pages_of_other_sites_are_kept_out(origin: str) -> None:
    for access in (Access(), Access([TOKEN])):
        with pytest.raises(RefusedError, match="other sites"):
            access.client(scope(origin=origin, authorization=f"Bearer {TOKEN}"))
    assert Access().client(scope(origin="http://localhost:7860"))


def test_a_name_that_was_made_to_point_here_is_no_way_in() -> None:
    for host in ("evil.example", "evil.example:7860", "127.0.0.1.evil.example", ""):
        with pytest.raises(RefusedError, match="localhost only"):
            Access().client(scope(host=host))
        assert Access(loopback=False).client(scope(host=host))
    for host in ("127.0.0.1", "127.0.0.1:80", "[::1]:80", "LocalHost"):
        assert Access().client(scope(host=host))


def test_loopback() -> None:
    assert all(map(is_loopback, ("127.0.0.1", "127.9.9.9", "::1", "localhost")))
    assert not any(map(is_loopback, ("0.0.0.0", "::", "192.168.1.2", "example.org", "localhost.example")))


def test_tokens_that_are_no_secrets_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "tokens"
    file.write_text(f"# clients\n\n{TOKEN}\n  {OTHER}\n")
    assert read_tokens(file) == (TOKEN, OTHER)
    for text, word in (("", "no token"), ("short\n", "token 1"), (f"{TOKEN}\nwith spaces in the middle\n", "token 2")):
        file.write_text(text)
        with pytest.raises(InputError, match=word):
            read_tokens(file)
    with pytest.raises(InputError, match="no such file"):
        read_tokens(tmp_path / "none")
