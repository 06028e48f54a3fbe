"""`Service`: the networks of a preset behind a queue. It knows nothing of HTTP, and `api` nothing of networks."""

from __future__ import annotations

import json
import math
import secrets
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from consistentid.errors import CancelledError, CheckpointError, ConsistentIDError
from consistentid.files.base64 import to_base64
from consistentid.serving.limits import Limits
from consistentid.serving.logs import event, where
from consistentid.serving.metrics import Metrics
from consistentid.serving.notes import collected, routed
from consistentid.serving.queue import Job, Queue, Share
from consistentid.serving.refusal import RefusedError
from consistentid.serving.uploads import check_picture, from_base64

if TYPE_CHECKING:  # all of these import torch, and the service answers before that is done
    from consistentid.adapter.identity import Identity
    from consistentid.pipeline.pipeline import ConsistentIDPipeline
    from consistentid.pipeline.portraits import Portraits
    from consistentid.pipeline.request import Request, Step
    from consistentid.presets.settings import Settings
    from consistentid.provenance.marks import Provenance

_PICTURES = ("image", "mask", "control")

_NEEDED = {"strength": "image", "control_scale": "control"}
_IDENTITIES = 1000
_PREVIEW_EVERY = 0.5


class Service:
    """Identities and portraits for several clients.

    Args:
        make: makes the pipeline; called in the background by `start`.
        limits: what may be asked for.
        shared: whether others answer at its address, too; what is kept here would not be found there, so nothing is.

    Attributes:
        state: "loading", "ready" or "failed".
        stage: what is being loaded, or why that failed.
    """

    def __init__(
        self, make: Callable[[], ConsistentIDPipeline], limits: Limits | None = None, *, shared: bool = False
    ) -> None:
        self._make, self.limits, self.shared = make, limits or Limits(), shared
        self.metrics = Metrics()
        self.state, self.stage, self.loaded = "loading", "the libraries", 0.0
        self._studio: ConsistentIDPipeline | None = None
        self._identities: dict[str, tuple[str, float, Identity]] = {}
        self._jobs: dict[str, Job] = {}
        self._lock = threading.Lock()
        self._routes = ExitStack()
        self._begun = False
        self.queue = Queue(self.limits, self.metrics.observe, self.metrics.observe_taken)
        self.metrics.gauge("queue_waiting", "Requests that wait", lambda: len(self.queue))
        self.metrics.gauge("queue_running", "Requests that are worked on", lambda: self.queue.running)
        self.metrics.gauge("ready", "Whether the weights are loaded", lambda: self.state == "ready")

    # ------------------------------------------------------------------------------------------------- start and stop

    def start(self, *, wait: bool = False) -> None:
        """Loads the weights, unless that has begun: in the background, or at once with `wait`."""
        if self._begun:
            return
        self._begun = True
        self._routes.enter_context(routed())
        if wait:
            self._load()
        else:
            threading.Thread(target=self._load, name="loading", daemon=True).start()

    def close(self) -> None:
        """Ends all work."""
        self.queue.close()
        self._jobs.clear()
        self._identities.clear()
        self._routes.close()

    def _load(self) -> None:
        began = time.monotonic()
        try:
            studio = self._make()
            parts: dict[str, Callable[[], object]] = {
                "the face networks": lambda: studio.analyzer,
                "the adapter": lambda: studio.adapter,
                "the image encoder": lambda: studio.encoder,
                "the base": lambda: studio.sampler,
            }
            for number, (self.stage, load) in enumerate(parts.items()):
                self.loaded = number / len(parts)
                load()
        except Exception as error:  # the service goes on saying what is wrong
            told = str(error) if isinstance(error, ConsistentIDError) else "unexpected: see the log"
            self.state, self.stage = "failed", told
            event("loading failed", error=type(error).__name__, message=str(error), where=where(error))
            return
        self._studio, self.loaded, self.stage, self.state = studio, 1.0, "", "ready"
        event("ready", preset=studio.preset.name, seconds=round(time.monotonic() - began, 1))

    @property
    def preset(self) -> str | None:
        """Name of the preset, once it is loaded."""
        return self._studio.preset.name if self._studio else None

    @property
    def studio(self) -> ConsistentIDPipeline:
        """The networks.

        Raises:
            RefusedError: 503, they are not loaded yet, or cannot be.
        """
        if self._studio is None:
            if self.state == "failed":
                raise RefusedError(503, "not_loaded", f"the weights cannot be loaded: {self.stage}")
            raise RefusedError(503, "loading", f"{self.stage} is being loaded; try again in a few seconds", 5)
        return self._studio

    def tidy(self) -> None:
        """Forgets what is past its time: identities, and pictures that nobody fetched."""
        now = time.monotonic()
        with self._lock:
            for token in [token for token, (_, until, _) in self._identities.items() if now > until]:
                del self._identities[token]
            for job in [job for job in self._jobs.values() if now > job.ended + self.limits.keep_results]:
                del self._jobs[job.id]

    # ------------------------------------------------------------------------------------------------------ identities

    def identify(
        self, client: str, photos: Sequence[bytes], face_index: int | None = None, *, skip_bad: bool = False
    ) -> Job:
        """A job whose answer is who is on photos, and what was seen of each.

        Raises:
            RefusedError, ImageError: no photos, too many, or one that is none; the queue is full; not loaded yet.
        """
        studio = self.studio
        self._check_photos(photos)

        def work(job: Job) -> dict[str, Any]:
            notes: list[str] = []
            with collected(notes):
                sights = studio.look(*photos, face_index=face_index, skip_bad=skip_bad)
                if job.stopped():
                    raise CancelledError("cancelled after the photos were looked at")
                identity = studio.encode(sights)
            return {
                "identity": to_base64(identity.to_bytes()),
                "token": self._keep(client, identity),
                "expires_in": self.limits.keep_identities or None,
                "parts": list(identity.visible_parts),
                "networks": dict(identity.provenance),
                "photos": [
                    {
                        "photo": sight.name,
                        "faces": len(sight.faces),
                        "face_index": sight.index,
                        "box": [round(float(x), 1) for x in sight.face.box],
                        "quality": round(float(sight.face.quality), 3),
                        "warnings": list(sight.face.warnings),
                    }
                    for sight in sights
                ],
                "warnings": notes,
            }

        return self.queue.submit("identify", client, work)

    def forget(self, client: str, token: str) -> None:
        """Forgets an identity.

        Raises:
            RefusedError: there is none of that token.
        """
        self._kept(client, token)
        with self._lock:
            self._identities.pop(token, None)

    def _keep(self, client: str, identity: Identity) -> str | None:
        if not self.limits.keep_identities:
            return None
        token = "id_" + secrets.token_urlsafe(24)
        self.tidy()
        with self._lock:
            while len(self._identities) >= _IDENTITIES:
                del self._identities[next(iter(self._identities))]
            self._identities[token] = (client, time.monotonic() + self.limits.keep_identities, identity)
        return token

    def _kept(self, client: str, token: str) -> Identity:
        self.tidy()
        with self._lock:
            owner, _, identity = self._identities.get(token, ("", 0.0, None))
        if identity is None or owner != client:
            raise RefusedError(
                404, "no_identity", "no identity of this token is kept; send photos or the identity file"
            )
        return identity

    def identity_of(self, client: str, given: str) -> Identity:
        """An identity that is kept under a token, or the file of one in base64.

        Raises:
            RefusedError: it is neither.
        """
        from consistentid.adapter.identity import Identity

        if given.startswith("id_"):
            return self._kept(client, given)
        try:
            identity = Identity.from_bytes(from_base64(given, "identity"))
        except CheckpointError as error:
            raise RefusedError(400, "no_identity_file", str(error)) from None
        return identity

    # ------------------------------------------------------------------------------------------------------- portraits

    def portraits(
        self,
        client: str,
        values: Mapping[str, Any],
        *,
        identity: Sequence[str] = (),
        photos: Sequence[bytes] = (),
        face_index: int | None = None,
        skip_bad: bool = False,
        alone: bool = False,
        keep: bool = False,
        repair: bool = False,
    ) -> Job:
        """A job whose answer is portraits; they may be sampled together with those of other jobs.

        Args:
            client: whose it is.
            values: what `Request.from_dict` reads.
            identity: see `identity_of`, one for each person; or `photos` of one; or neither with ``base_alone``.
            photos: files.
            face_index: which face of them.
            skip_bad: leave out photos without a usable face of the person.
            alone: whether it is sampled by itself, which gives the same bytes whatever else is asked for.
            keep: whether the answer is fetched later, by `job`.
            repair: whether nothing is drawn but small faces of the request's picture, anew.

        Raises:
            RefusedError, InputError: not to be done like this; the queue is full; not loaded yet.
        """
        if keep and self.shared:
            raise RefusedError(
                400, "no_jobs", "there are no background jobs, as several replicas answer here; wait for the answer"
            )
        studio = self.studio
        if repair:
            if values.get("image") is None:
                raise RefusedError(400, "invalid_request", "no picture; send the one to be repaired as 'image'")
            values = {**values, "repair": True}
        if identity and photos:
            raise RefusedError(400, "invalid_request", "both an identity and photos; send one of them")
        if len(identity) > self.limits.photos:
            raise RefusedError(400, "over_limit", f"{len(identity)} people; at most {self.limits.photos}")
        people = [self.identity_of(client, given) for given in identity]
        whole = self._check_request(values, people, studio.preset.settings)
        for person in people:
            studio.adapter.check_identity(person, warn=False)  # the work itself tells
        if photos:
            self._check_photos(photos)
        elif not people and not values.get("base_alone"):
            raise RefusedError(400, "invalid_request", "nobody to be drawn: send an identity, or photos of the person")

        work = _Portraying(self, values, people, photos, face_index, skip_bad, repair)
        share, defaults = None, studio.preset.settings
        if whole is not None and not alone and (key := whole.batch_key(defaults)) is not None:
            share = Share(key, whole.settings(defaults).batch_size, _portray, len(whole.prompts) * whole.made)
        job = self.queue.submit("portraits", client, work, share)
        if keep:
            self.tidy()
            with self._lock:
                ended = [other.id for other in self._jobs.values() if other.finished]
                for old in ended[: max(0, len(ended) - self.limits.waiting)]:
                    del self._jobs[old]
                self._jobs[job.id] = job
        return job

    def job(self, client: str, id: str) -> Job:
        """A background job.

        Raises:
            RefusedError: there is none of that id.
        """
        self.tidy()
        with self._lock:
            job = self._jobs.get(id)
        if job is None or job.client != client:
            raise RefusedError(
                404, "no_job", "no such job: its pictures were fetched, or it was cancelled, or too long ago"
            )
        return job

    def drop(self, job: Job) -> None:
        """Ends a job, if it has not ended, and forgets it."""
        self.queue.cancel(job)
        with self._lock:
            self._jobs.pop(job.id, None)

    # ---------------------------------------------------------------------------------------------------------- checks

    def _check_photos(self, photos: Sequence[bytes]) -> None:
        if not photos:
            raise RefusedError(400, "no_photo", "no photo; send at least one in the field 'photo'")
        if len(photos) > self.limits.photos:
            raise RefusedError(400, "over_limit", f"{len(photos)} photos of one person; at most {self.limits.photos}")
        for number, data in enumerate(photos, 1):
            check_picture(data, f"photo {number}", self.limits.pixels)

    def _check_request(
        self, values: Mapping[str, Any], people: Sequence[Identity], defaults: Settings
    ) -> Request | None:
        """Refuses what can be refused before any picture is decoded; the request, if no pictures belong to it."""
        from consistentid.pipeline.request import Request

        regions = values.get("regions")
        masks = [mask for mask in regions if isinstance(mask, str)] if isinstance(regions, list) else []
        given = [(name, values[name]) for name in _PICTURES if values.get(name) is not None]
        for name, value in [*given, *(("regions", mask) for mask in masks)]:
            check_picture(from_base64(value, name), name, self.limits.pixels)
        texts = {name: value for name, value in values.items() if name not in (*_PICTURES, "regions")}
        if (longest := max(map(len, _texts(texts)), default=0)) > self.limits.characters:
            raise RefusedError(
                400, "over_limit", f"a text has {longest} characters; at most {self.limits.characters} are allowed"
            )
        if masks:
            return None  # what is said of people can only be checked together with their regions
        brought = [name for name, _ in given]
        left_out = {*brought, *(name for name, needs in _NEEDED.items() if needs in brought)}
        plain = {name: value for name, value in values.items() if name not in left_out}
        request = Request.from_dict(plain, identity=_one_or_all(people))
        self.limits.check_request(request, defaults)
        return None if given else request


@dataclass(frozen=True)
class _Portraying:
    """The work of a job for portraits."""

    service: Service
    values: Mapping[str, Any]
    people: Sequence[Identity]
    photos: Sequence[bytes]
    face_index: int | None
    skip_bad: bool
    repair: bool
    notes: list[str] = field(default_factory=list)

    def __call__(self, job: Job) -> dict[str, Any]:
        [answer] = _portray([job])
        if isinstance(answer, Exception):
            raise answer
        return answer

    def request(self, job: Job) -> Request:
        """What is asked for. Only now pictures are decoded: those of all who wait would fill the memory."""
        from consistentid.pipeline.request import Request

        studio, people = self.service.studio, self.people
        if self.photos:
            sights = studio.look(*self.photos, face_index=self.face_index, skip_bad=self.skip_bad)
            self.notes.extend(f"{x.name}: {', '.join(x.face.warnings)}" for x in sights if x.face.warnings)
            people = [studio.encode(sights)]
        if job.stopped():
            raise CancelledError("cancelled after the photos were looked at")
        report = _Reporter(job, replace(studio.provenance, signer=None))
        request = Request.from_dict(self.values, identity=_one_or_all(people), on_step=report, cancelled=job.stopped)
        self.service.limits.check_request(request, studio.preset.settings)
        return request

    def answer(self, made: Portraits) -> dict[str, Any]:
        """What the client gets."""
        return {
            "pictures": [
                {
                    "b64_json": to_base64(made.to_png(number)),
                    "prompt": made.prompts[number],
                    "seed": made.seeds[number],
                    "likeness": None if math.isnan(score := made.scores[number]) else score,
                    "withheld": made.withheld[number],
                    "width": made.images[number].width,
                    "height": made.images[number].height,
                    **_details(made.picture_record(number)),
                }
                for number in range(len(made))
            ],
            "record": dict(made.record),
            "warnings": self.notes,
        }


def _portray(jobs: Sequence[Job]) -> list[dict[str, Any] | Exception]:
    """The portraits of jobs that may be sampled together, or of one; of each its answer, or the error that is its."""
    works: list[_Portraying] = [job.work for job in jobs]  # type: ignore[misc]  # no other work comes with this one
    studio = works[0].service.studio
    found: list[Any] = []
    for work, job in zip(works, jobs, strict=True):
        try:
            with collected(work.notes):
                found.append(work.request(job))
        except Exception as error:
            found.append(error)
    asked = [number for number, one in enumerate(found) if not isinstance(one, Exception)]
    requests = [found[number] for number in asked]
    try:
        if requests and works[asked[0]].repair:
            with collected(works[asked[0]].notes):
                made: Sequence[Any] = [studio.repair_request(requests[0])]
        elif len(requests) == 1 and not requests[0].people:
            made = [studio.sample(requests[0])]
        else:
            made = studio.generate_batch(requests, lambda place: collected(works[asked[place]].notes))
    finally:
        studio.sampler.forget()  # nothing about a person is kept after the answer
    for number, portraits in zip(asked, made, strict=True):
        found[number] = portraits if isinstance(portraits, Exception) else works[number].answer(portraits)
    return found


def _details(record: Mapping[str, Any]) -> dict[str, Any]:
    """What is known of the people of a picture, their places and repaired faces, as JSON has it."""
    from consistentid.files.output import encode_json

    known = {name: record[name] for name in ("people", "placement", "repairs") if name in record}
    found: dict[str, Any] = json.loads(encode_json(known))  # null where there is no number
    return found


def _one_or_all(people: Sequence[Identity]) -> Any:
    """People as `Request.identity` has them."""
    return (people[0] if people else None) if len(people) < 2 else people


def _texts(value: Any) -> Iterator[str]:
    """Every text within a JSON value."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping | list):
        for item in value.values() if isinstance(value, Mapping) else value:
            yield from _texts(item)


class _Reporter:
    """Notes in a job how far it is; previews only while somebody looks, as each takes a pass of the decoder."""

    def __init__(self, job: Job, marks: Provenance) -> None:
        self._job, self._marks, self._next = job, marks, 0.0

    def __call__(self, step: Step) -> None:
        left = None if math.isnan(step.seconds_left) else round(step.seconds_left, 1)
        self._job.progress = {"stage": step.stage, "done": step.done, "total": step.total, "seconds_left": left}
        if self._job.watched and time.monotonic() >= self._next and step.latents is not None:
            pictures = [self._marks.encode(image, {"preview": True, "ai_generated": True}) for image in step.preview()]
            self._job.previews = [to_base64(data) for data in pictures]
            self._next = time.monotonic() + _PREVIEW_EVERY
