"""A running service as another program uses it: who is on photos, and portraits of them, over HTTP."""

from __future__ import annotations

import io
import math
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import urlsplit

import httpx
from PIL import Image

from consistentid.errors import InputError, ServerError
from consistentid.files.base64 import from_base64, to_base64
from consistentid.pipeline.portraits import Portraits
from consistentid.serving.address import TOKEN_VARIABLE, is_loopback

if TYPE_CHECKING:
    from consistentid.pipeline.request import Request

_LOOK = 0.2
_PATIENCE = 600.0
"""Seconds until a service that loads its weights, or is busy, is given up."""


@dataclass(frozen=True)
class Received(Portraits):
    """Portraits that a service made. Their files stay as they came, marks and all.

    Attributes:
        files: PNG of each.
    """

    files: Sequence[bytes] = ()

    def to_png(self, number: int, *_: Any, **__: Any) -> bytes:
        """One picture as the service made it."""
        return self.files[number]


class Client:
    """A running service.

    Args:
        url: such as ``http://127.0.0.1:7860``.
        token: which it asks for.
        say: called with a sentence while it is waited for.

    Raises:
        InputError: no such URL.
    """

    def __init__(self, url: str, token: str | None = None, say: Callable[[str], object] = lambda _: None) -> None:
        parts = urlsplit(url)
        try:
            good = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0 and not parts.query
        except ValueError:  # a port that is no number
            good = False
        if not good:
            raise InputError(f"--server {url}: is no URL of a service; give one such as http://127.0.0.1:7860")
        self._url, self._say = url, say
        self._jobs = True
        self._http = httpx.Client(
            base_url=url.rstrip("/"),
            headers={"Authorization": f"Bearer {token}"} if token else {},
            timeout=httpx.Timeout(120, connect=10),
            limits=httpx.Limits(max_keepalive_connections=0),  # one that waits is closed by the other side at any time
            trust_env=not is_loopback(parts.hostname or ""),  # no proxy stands between this machine and itself
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._http.close()

    def wait(self, preset: str | None = None) -> None:
        """Waits until the weights are loaded.

        Args:
            preset: which one the service must have.

        Raises:
            ServerError: nobody is there, or something else, another version or preset, or the weights cannot be loaded.
        """
        answer = self._send("GET", "/health")
        theirs, ours = self._json(answer).get("version"), version("consistentid")
        if answer.status_code != 200 or not isinstance(theirs, str):
            raise self._error("is no service of consistentid; start one with `consistentid serve`")
        if theirs != ours:
            raise self._error(f"is consistentid {theirs}, and this is {ours}; install the same version on both sides")
        until, told = time.monotonic() + _PATIENCE, ""
        while (answer := self._send("GET", "/ready")).status_code != 200:
            state = self._json(answer)
            if state.get("state") != "loading" or time.monotonic() > until:
                raise self._error(f"cannot load its weights: {state.get('stage')}")
            if state.get("stage") != told:
                told = str(state.get("stage"))
                self._say(f"the service loads {told}")
            time.sleep(_LOOK)
        ready = self._json(answer)
        self._jobs = ready.get("jobs") is not False
        found = ready.get("preset")
        if preset is not None and found != preset:
            raise self._error(f"serves the preset {found!r}, and not {preset!r}; leave out --preset, or serve that one")

    def identify(self, photo: bytes, face_index: int | None = None) -> bytes:
        """The identity file of the person on a photo.

        Raises:
            ServerError: the service refuses, with its words; or it is gone.
        """
        fields = {} if face_index is None else {"face_index": str(face_index)}
        found = self._json(self._accepted("POST", "/v1/identities", data=fields, files={"photo": photo}))
        try:
            identity = from_base64(found["identity"])
            seen = [(photo["photo"], photo["warnings"]) for photo in found["photos"]]
        except (KeyError, TypeError, ValueError) as error:
            raise self._error(f"answers with what is no identity ({type(error).__name__})") from None
        for name, hard in seen:
            if hard:
                self._say(f"{name}: {', '.join(hard)}")
        _warn(found)
        return identity

    def generate(
        self,
        request: Request,
        identities: Sequence[bytes] = (),
        photos: Sequence[bytes] = (),
        face_index: int | None = None,
        *,
        skip_bad: bool = False,
    ) -> Received:
        """The portraits of a request, made alone: the same bytes as here.

        Args:
            request: its identity is not looked at.
            identities: files of the people; or
            photos: of one person.
            face_index: which face of the photos.
            skip_bad: leave out photos that cannot be used.

        Raises:
            ServerError: the service refuses, with its words; or it is gone.
        """
        body: dict[str, Any] = {"request": request.to_dict(), "alone": True, "background": self._jobs}
        if photos:
            sent = [to_base64(photo) for photo in photos]
            body |= {"photos": sent, "face_index": face_index, "skip_bad": skip_bad}
        else:
            body["identity"] = [to_base64(identity) for identity in identities]
        accepted = self._accepted("POST", "/v1/portraits", json=body, timeout=_PATIENCE)
        if not self._jobs:  # of several replicas: the answer itself
            result = self._json(accepted)
            _warn(result)
            return self._received(result)
        address = accepted.headers.get("location")
        if address is None:
            raise self._error("answers with what is no job")
        try:
            while True:
                job = self._json(self._accepted("GET", address))
                if request.progress and job.get("total"):
                    request.progress(job["done"], job["total"])
                if job["state"] == "done":
                    break
                if job["state"] in ("failed", "cancelled"):
                    raise self._error(str(job["error"]["message"]))
                time.sleep(_LOOK)
        except BaseException:
            self._cancel(address)
            raise
        _warn(job["result"])
        return self._received(job["result"])

    def _received(self, result: Mapping[str, Any]) -> Received:
        try:
            told = result["pictures"]
            files = [from_base64(picture["b64_json"]) for picture in told]
            images = []
            for data in files:
                with Image.open(io.BytesIO(data)) as image:
                    images.append(image.convert("RGB"))
            return Received(
                images=images,
                scores=[_number(picture["likeness"]) for picture in told],
                seeds=[picture["seed"] for picture in told],
                withheld=[picture["withheld"] for picture in told],
                prompts=[picture["prompt"] for picture in told],
                record=result["record"],
                people=[_people(picture["people"]) for picture in told if "people" in picture],
                placements=[picture["placement"] for picture in told if "placement" in picture],
                repairs=[picture["repairs"] for picture in told if "repairs" in picture],
                files=files,
            )
        except (KeyError, TypeError, ValueError, OSError) as error:
            raise self._error(f"answers with what is no portraits ({type(error).__name__})") from None

    # ----------------------------------------------------------------------------------------------------------- calls

    def _accepted(self, method: str, path: str, **content: Any) -> httpx.Response:
        """The answer of a call that is not refused; one that has to wait for its turn is made again."""
        until = time.monotonic() + _PATIENCE
        while True:
            answer = self._send(method, path, **content)
            if answer.is_success:
                return answer
            told = self._json(answer).get("error")
            message = str(told.get("message")) if isinstance(told, Mapping) else f"answers with {answer.status_code}"
            seconds = answer.headers.get("retry-after", "")
            if answer.status_code not in (429, 503) or not seconds.isdecimal() or time.monotonic() > until:
                if answer.status_code == 401:
                    message += f"; set the environment variable {TOKEN_VARIABLE}"
                raise self._error(message)
            self._say(message)
            time.sleep(min(int(seconds), 30))

    def _send(self, method: str, path: str, **content: Any) -> httpx.Response:
        try:
            return self._http.request(method, path, **content)
        except httpx.TransportError as error:
            kind = type(error).__name__
            gone = "nobody answers there" if isinstance(error, httpx.ConnectError) else f"the service is gone ({kind})"
            raise self._error(f"{gone}; start it with `consistentid serve`, or leave out --server") from None

    def _cancel(self, address: str) -> None:
        with suppress(httpx.HTTPError):
            self._http.request("DELETE", address, timeout=5)

    def _json(self, answer: httpx.Response) -> dict[str, Any]:
        try:
            found = answer.json()
        except ValueError:
            found = None
        return found if isinstance(found, dict) else {}

    def _error(self, message: str) -> ServerError:
        return ServerError(f"--server {self._url}: {message}")


def _warn(found: Mapping[str, Any]) -> None:
    for warning in found.get("warnings", ()):
        warnings.warn(str(warning), stacklevel=3)


def _number(value: float | None) -> float:
    return math.nan if value is None else float(value)


def _people(people: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    return [{**person, "likeness": _number(person["likeness"])} for person in people]
