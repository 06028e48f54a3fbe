"""What the page asks of the `Service`: plain values of a browser in, plain values for it out, and each error one line.

Whatever a browser sends is checked as that of any other client: by the service, and by `Request`.
"""

from __future__ import annotations

import asyncio
import io
import secrets
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import Any

from starlette.concurrency import run_in_threadpool

from consistentid.errors import ArgumentError, InputError
from consistentid.files.base64 import to_base64
from consistentid.presets.preset import Preset
from consistentid.presets.read import load_preset, preset_names
from consistentid.serving.calls import LOOK, whole_number
from consistentid.serving.logs import unexpected
from consistentid.serving.page.words import LABELS, ONLY_REPAIR
from consistentid.serving.queue import Job
from consistentid.serving.refusal import refusal_of
from consistentid.serving.service import Service
from consistentid.serving.uploads import from_base64

Told = dict[str, Any]

TYPED: Mapping[str, Callable[[str], Any]] = {
    "seed": int, "best_of": int, "repair_below": float, "repair_tries": int,
}  # fmt: skip
"""Arguments whose numbers are typed, as they may also be left out."""

_SIDE = 256

_REPAIRED_WITH = (
    "prompt", "seed", "num_inference_steps", "repair_below", "repair_tries", "image", "regions", "person_prompts",
)  # fmt: skip
"""Arguments of a repair alone, as `consistentid repair` has them; the page's others are about a whole picture."""


class Actions:
    """What can be done on the page.

    Args:
        service: does it.
        preset: the one that it serves.
    """

    def __init__(self, service: Service, preset: Preset) -> None:
        self.service, self.preset = service, preset

    # -------------------------------------------------------------------------------------------------------- who it is

    async def identify(self, client: str, sent: Any) -> Told:
        """Who is on photos, as `Service.identify` answers, or {"error"}.

        Args:
            client: whose browser it is.
            sent: {"photos": files in base64, "face_index": number or None}.
        """
        try:
            sent = _mapping(sent, "what was sent")
            photos = sent.get("photos")
            if not isinstance(photos, list):
                raise InputError("no photo was sent; choose one or several files")
            files = [from_base64(photo, f"photo {number}") for number, photo in enumerate(photos, 1)]
            index = whole_number("the face's number", sent.get("face_index"))
            await self._loaded()
            job = await run_in_threadpool(self.service.identify, client, files, index)
            async for _ in self._until_done(job):
                pass
            return _answer_of(job)
        except Exception as error:  # a page shows it, and goes on
            return {"error": _line(error)}

    async def read(self, client: str, sent: Any) -> Told:
        """What a saved identity holds: {"identity", "parts", "face_text"}, or {"error"}.

        Args:
            client: whose browser it is.
            sent: {"identity": the file in base64}.
        """
        try:
            given = _mapping(sent, "what was sent").get("identity")
            await self._loaded()

            def look() -> Told:
                person = self.service.identity_of(client, given if isinstance(given, str) else "")
                self.service.studio.adapter.check_identity(person, warn=False)
                data = to_base64(person.to_bytes())
                return {"identity": data, "parts": list(person.visible_parts), "face_text": person.face_text}

            return await run_in_threadpool(look)
        except Exception as error:
            return {"error": _line(error)}

    async def invent(self) -> Told:
        """A picture of a person whom no network has seen, for the drawn preset: {"photo"}, a file in base64."""
        try:
            await self._loaded()  # drawing takes the libraries that are being loaded
            return {"photo": await run_in_threadpool(_invented)}
        except Exception as error:
            return {"error": _line(error)}

    # --------------------------------------------------------------------------------------------------------- pictures

    async def generate(
        self, client: str, people: Any, picture: Any, settings: Mapping[str, Any]
    ) -> AsyncIterator[Told]:
        """Pictures, and before them how far they are. Should nobody listen any more, they are cancelled.

        Args:
            client: whose browser it is.
            people: {"people": [{"name", "identity", "words", "scale", "parts", "part_scales", "borrow"}]}; "borrow"
                names for a part the number of the person whose it is.
            picture: {"image", "mask": files in base64 or None, "boxes": one or None for each person}.
            settings: other arguments of a `Request`; those that are None are the preset's. And "only_repair": whether
                nothing is drawn but small faces of the picture.

        Yields:
            {"state": "waiting", "running", "done" or "failed", "message", "run"}, and with "running" also "stage",
            "done", "total", "seconds_left" and "previews"; with "done" what `Service.portraits` answers, the people's
            "names", "changed", "masked" and "request". "run" is the same in all that is said of one call: a browser may
            get the end twice, and something after it was cancelled.
        """
        job: Job | None = None
        run = secrets.token_hex(8)
        try:
            yield {"state": "waiting", "message": self.loading, "run": run}
            await self._loaded()
            settings = dict(settings)
            alone = bool(settings.pop(ONLY_REPAIR, False))
            if alone:
                settings["repair"] = True
            values, identities, names = await run_in_threadpool(self._asked, people, picture, settings)
            if alone:
                values = _of_repair(values)
            job = await run_in_threadpool(self.service.portraits, client, values, identity=identities, repair=alone)
            job.watched += 1
            async for told in self._until_done(job):
                yield {**told, "run": run}
            shown = {name: value for name, value in values.items() if name not in ("image", "mask")}
            answer = _answer_of(job)
            if alone:
                shown |= {ONLY_REPAIR: True}
                answer |= {"warnings": [*answer["warnings"], *_said_of_repair(answer, names)]}
            about = {"names": names, "changed": "image" in values, "masked": "mask" in values, "request": shown}
            yield {"state": "done", "message": "", "run": run, **about, **answer}
        except Exception as error:
            yield {"state": "failed", "message": _line(error), "run": run}
        finally:
            if job is not None:
                job.watched -= 1
                self.service.queue.cancel(job)

    # ----------------------------------------------------------------------------------------------------------- state

    @property
    def loading(self) -> str:
        """What the service waits for, in words; empty once it is ready."""
        service = self.service
        if service.state == "ready":
            return ""
        if service.state == "failed":
            return f"The weights cannot be loaded: {service.stage}"
        return f"Loading {service.stage} ({service.loaded:.0%})"

    def presets(self) -> list[Told]:
        """Of the served preset and those of the package: "name", "about", "served", "missing" networks with their
        "megabytes", these "to_fetch_mb" together, and "lines" to type for it to be served."""
        from consistentid.presets.doctor import networks_of

        found = []
        names = [name for name in preset_names() if name != self.preset.name]
        for preset in (self.preset, *map(load_preset, names)):
            report = networks_of(preset)
            served = preset is self.preset
            lines = [report["fetch"], None if served else f"consistentid serve --preset {preset.name}"]
            found.append(
                {
                    "name": preset.name,
                    "about": preset.about,
                    "served": served,
                    "missing": [item for item in report["networks"] if item["state"] not in ("present", "built in")],
                    "to_fetch_mb": report["to_fetch_mb"],
                    "lines": [line for line in lines if line],
                }
            )
        return found

    async def _loaded(self) -> None:
        while self.service.state == "loading":
            await asyncio.sleep(LOOK)
        _ = self.service.studio  # which says why, if it could not be loaded

    async def _until_done(self, job: Job) -> AsyncIterator[Told]:
        """How far a job is, whenever that changes."""
        last: Told = {}
        while not job.finished:
            position = self.service.queue.position(job)
            message = f"{position} before you" if position else ""
            told = {
                "state": "running" if job.progress else "waiting",
                "message": message,
                **job.progress,
                "previews": list(job.previews),
            }
            if told != last:
                last = told
                yield told
            await asyncio.sleep(LOOK)
            if job.stopped():
                self.service.queue.tidy()

    def _asked(
        self, people: Any, picture: Any, settings: Mapping[str, Any]
    ) -> tuple[dict[str, Any], list[str], list[str]]:
        """The request, and the identities and names of its people.

        Raises:
            ConsistentIDError: it cannot be made of this.
        """
        listed = _mapping(people, "the list of people").get("people") or []
        if not isinstance(listed, list) or not listed:
            raise InputError("nobody to be drawn: first add a photo of somebody, or a saved identity")
        them = [_mapping(person, "a person") for person in listed]
        names = [str(person.get("name") or f"Person {number}") for number, person in enumerate(them, 1)]
        for name, person in zip(names, them, strict=True):
            if not isinstance(person.get("identity"), str) or not person["identity"]:
                raise InputError(f"{name} is not known yet: choose a photo of them, or remove them")
        given = _mapping(picture, "the picture")
        values = {name: _typed(name, value) for name, value in settings.items() if value is not None}
        values |= {name: given[name] for name in ("image", "mask") if given.get(name)}
        if not given.get("image"):
            values.pop("strength", None)
        if not values.get("repair"):
            values = {name: value for name, value in values.items() if name not in ("repair_below", "repair_tries")}
        values |= _of_people(them, names, given.get("boxes"))
        return values, _with_borrowed(them, names), names


# ------------------------------------------------------------------------------------------------------------ of people


def _of_people(people: Sequence[Mapping[str, Any]], names: Sequence[str], boxes: Any) -> dict[str, Any]:
    """What is said of each person, in the form that a `Request` has for one or for several."""
    found: dict[str, Any] = {}
    places = list(boxes) if isinstance(boxes, list) else []
    places = [*places, *[None] * len(people)][: len(people)]
    if any(places):
        missing = [name for name, box in zip(names, places, strict=True) if not box]
        if missing:
            raise InputError(f"{missing[0]} has no box, and others have; draw one for each person, or for none")
        found["regions"] = places
    words = [str(person.get("words") or "") for person in people]
    if any(words):
        found["person_prompts"] = words
    scales = [1.0 if person.get("scale") is None else person["scale"] for person in people]
    if len(people) > 1 and any(scale != 1 for scale in scales):
        found["person_scales"] = scales
    parts = [_said_of_parts(person) for person in people]
    if any(parts):
        found["parts"] = parts if len(people) > 1 else parts[0]
    strengths = [dict(_mapping(person.get("part_scales"), "the strengths of parts")) for person in people]
    if any(strengths):
        found["part_scales"] = strengths if len(people) > 1 else strengths[0]
    return found


def _of_repair(values: Mapping[str, Any]) -> dict[str, Any]:
    """The values of a repair alone.

    Raises:
        InputError: no picture.
    """
    if not values.get("image"):
        raise InputError(
            f"no picture: add the one with the faces under 'Change a picture', or leave out {LABELS[ONLY_REPAIR]!r}"
        )
    found = {name: value for name, value in values.items() if name in _REPAIRED_WITH}
    return found | {"prompt": str(values.get("prompt") or "").strip() or "a person"}


def _said_of_repair(answer: Mapping[str, Any], names: Sequence[str]) -> list[str]:
    """What became of each face, in words."""
    found = []
    for face in answer["pictures"][0].get("repairs", ()):
        before, after = (
            "unknown" if x is None else f"{x:.2f}" for x in (face["likeness_before"], face["likeness_after"])
        )
        left = "" if face["kept"] else ", so left as it was"
        found.append(f"{names[face['person']]}: likeness {before} before, {after} after{left}")
    return found or [f"no face is small enough to be drawn anew; {LABELS['repair_below']!r} takes larger ones, too"]


def _said_of_parts(person: Mapping[str, Any]) -> dict[str, str]:
    said = _mapping(person.get("parts") or {}, "the words for parts")
    return {part: text for part, text in said.items() if text}


def _with_borrowed(people: Sequence[Mapping[str, Any]], names: Sequence[str]) -> list[str]:
    """The identity files in base64, with the parts that some take of others."""
    given = [str(person["identity"]) for person in people]
    if not any(person.get("borrow") for person in people):
        return given
    from consistentid.adapter.identity import Identity

    known = [Identity.from_bytes(from_base64(text, name), name) for text, name in zip(given, names, strict=True)]
    found = list(given)
    for number, person in enumerate(people):
        borrowed = _mapping(person.get("borrow") or {}, "the parts of others")
        if not borrowed:
            continue
        others = {}
        for part, owner in borrowed.items():
            if type(owner) is not int or not 0 <= owner < len(known):
                raise InputError(f"{names[number]}: the {part} of a person who is not there; choose another")
            others[part] = known[owner]
        found[number] = to_base64(known[number].with_parts(**others).to_bytes())
    return found


def _invented() -> str:
    """A PNG in base64 of a drawn person facing the viewer, of those that are kept for tests."""
    from dataclasses import replace

    import numpy as np
    from PIL import Image

    from consistentid.drawn.portraits import draw, sample_people, sample_scenes

    number = secrets.randbelow(1_000_000)
    none, calm = np.zeros(1, np.int64), np.zeros(1, np.float32)
    plain: dict[str, Any] = {
        **dict.fromkeys(("yaw", "pitch", "roll", "gaze_x", "gaze_y", "center_x"), calm),
        **dict.fromkeys(("expression", "light", "hat", "glasses"), none),
        **dict.fromkeys(("eyes_closed", "earrings", "necklace"), none.astype(bool)),
        "background": none + 1,
        "style": none + 1,
    }
    scene = replace(sample_scenes([(number, 0)], split="test"), **plain)
    stream = io.BytesIO()
    Image.fromarray(draw(sample_people([number], split="test"), scene, _SIDE).pixels()[0]).save(stream, "PNG")
    return to_base64(stream.getvalue())


# ------------------------------------------------------------------------------------------------------------- answers


def _typed(name: str, value: Any) -> Any:
    """A value, or the number that was typed."""
    if name not in TYPED or not isinstance(value, str):
        return value
    try:
        return TYPED[name](value.strip())
    except ValueError:
        raise ArgumentError(f"{{{name}}}={{value!r}} is no number; type one, or nothing", value=value) from None


def _mapping(value: Any, what: str) -> Mapping[str, Any]:
    if value is None:
        return {}
    if not isinstance(value, Mapping) or not all(isinstance(key, str) for key in value):
        raise InputError(f"{what} is not of the form that the page sends; load the page again")
    return value


def _answer_of(job: Job) -> Told:
    if job.error is not None:
        raise job.error
    return dict(job.answer)


def _line(error: Exception) -> str:
    """What went wrong in one line, which names things as the page does."""
    if isinstance(error, ArgumentError):
        return error.named(LABELS)
    refusal = refusal_of(error)
    if refusal.code == "unexpected" and refusal is not error:
        unexpected("page", error)
    return str(refusal)
