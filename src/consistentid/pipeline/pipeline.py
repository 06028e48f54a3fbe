"""`ConsistentIDPipeline`: photos and a prompt in, portraits and likeness out."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from os import PathLike
from typing import Any

import torch
from PIL import Image

from consistentid.adapter.identity import Identity
from consistentid.adapter.regions import Region, Regions
from consistentid.errors import ArgumentError, CancelledError, InputError, NoFaceError, first_line
from consistentid.faces.caption import Captioner
from consistentid.faces.sight import Sight, look
from consistentid.files.devices import moved, ordinary_tensors
from consistentid.files.images import Photo, read_photo
from consistentid.pipeline.first_pass import placed
from consistentid.pipeline.likeness import find_people
from consistentid.pipeline.networks import PresetNetworks
from consistentid.pipeline.placement import Placement
from consistentid.pipeline.portraits import Portraits
from consistentid.pipeline.progress import report
from consistentid.pipeline.record import record_of
from consistentid.pipeline.repair import redraw_faces
from consistentid.pipeline.request import Request, Row, Step
from consistentid.pipeline.sampling import Sampled
from consistentid.presets.preset import Preset
from consistentid.presets.read import load_preset
from consistentid.provenance.marks import Provenance


class ConsistentIDPipeline(PresetNetworks):
    """Portraits of a person from photos and a prompt. Each network is loaded when first used, and once.

    The face networks are on the device only while they look at a picture. Calls from several threads wait for one
    another.

    Args:
        preset: which networks, and the settings they were made for.
        device: where to compute, e.g. "cpu", "cuda", "cuda:1", "mps"; the best there is by default.
        dtype: "auto", "float32", "float16", "bfloat16" or a torch dtype; the preset's by default.
        low_memory: keep on a GPU only the network that computes, decode pictures singly and in tiles, and let go of
            the image encoder after each `identify`. The pictures stay the same, up to rounding and the tiles' seams.
        fold: add the adapter's LoRA to the base's weights, which is faster; see `ConsistentID.attach`.
        provenance: which marks the pictures get when they are encoded or saved, beside their record.

    Raises:
        InputError: a device that is not there, or an unknown dtype.
    """

    def __init__(
        self,
        preset: Preset,
        device: str | torch.device | None = None,
        dtype: str | torch.dtype | None = None,
        *,
        low_memory: bool = False,
        fold: bool = True,
        provenance: Provenance = Provenance(),  # noqa: B008  # frozen
    ) -> None:
        super().__init__(preset, device, dtype, low_memory=low_memory, fold=fold)
        self.provenance = provenance

    @classmethod
    def from_preset(
        cls,
        name_or_path: str | PathLike[str],
        device: str | torch.device | None = None,
        dtype: str | torch.dtype | None = None,
        *,
        low_memory: bool = False,
        fold: bool = True,
        provenance: Provenance = Provenance(),  # noqa: B008  # frozen
        **overrides: Any,
    ) -> ConsistentIDPipeline:
        """The preset of that name, folder or YAML file; `overrides` replace networks or settings in it.

        Raises:
            InputError: no such preset, override, device or dtype; the message lists what there is.
        """
        preset = load_preset(name_or_path).override(**overrides)
        return cls(preset, device, dtype, low_memory=low_memory, fold=fold, provenance=provenance)

    def identify(
        self,
        *photos: Photo,
        face_index: int | Sequence[int | None] | None = None,
        captioner: Captioner | None = None,
        skip_bad: bool = False,
    ) -> Identity:
        """The person on one or more photos: `look`, then `encode`.

        Args:
            photos: paths, Pillow images, arrays, bytes or streams (see `Photo`), all of one person.
            face_index: which face where a photo shows several, for all or for each; 0 is the largest.
            captioner: a vision-language model that puts the face into words, which are then the facial sentence.
            skip_bad: leave out photos without a usable face of the person, with a warning that names them.

        Raises:
            InputError: no photos, or one that cannot be read.
            NoFaceError, SeveralFacesError: a photo without a face, or with several and none chosen.
            FaceError: a face that cannot be used, or a photo of another person than the others.
            PhotographError: a photograph where the preset knows drawings only.
        """
        return self.encode(self.look(*photos, face_index=face_index, skip_bad=skip_bad), captioner)

    @ordinary_tensors()
    def look(
        self, *photos: Photo, face_index: int | Sequence[int | None] | None = None, skip_bad: bool = False
    ) -> list[Sight]:
        """What is seen of the person on each photo, by the face networks alone; arguments and errors as `identify`."""
        names = [str(x) if isinstance(x, str | PathLike) else f"picture {n}" for n, x in enumerate(photos, 1)]
        images = [read_photo(x, name) for x, name in zip(photos, names, strict=True)]
        with self.at_work(), self.faces_at_work():
            return look(
                self.analyzer,
                images,
                names=names,
                face_index=face_index,
                same_person=self.preset.same_person,
                skip_bad=skip_bad,
            )

    @ordinary_tensors()
    def encode(self, sights: Sequence[Sight], captioner: Captioner | None = None) -> Identity:
        """The person of whom these are sights: only now the image encoder is loaded.

        Raises:
            CheckpointError: weights are missing, broken, or of another kind.
        """
        with self.at_work(), moved(self.device, self.encoder.image_encoder):
            identity = self.encoder.combine(sights, captioner)
            if self.low_memory:
                del self.encoder
        return identity

    def __call__(
        self, identity: Identity | Sequence[Identity], prompt: str | Sequence[str], **arguments: Any
    ) -> Portraits:
        """Portraits of the person, or of several people together: `generate` of a `Request` of these arguments.

        Args:
            identity: from `identify` or `Identity.load`.
            prompt: what the pictures shall show: one text or several.
            arguments: everything else that `Request` has, such as ``num_images_per_prompt``, ``seed``, ``image``; what
                is left out comes from the preset's settings. With `image` that picture is drawn anew (img2img); with
                `mask`, too, the person is put into it (inpainting).

        Raises:
            InputError: an argument out of its range; PromptTooLongError: a prompt of too many words.
            IncompatibleIdentityError: the identity was made by other networks.
            CheckpointError: weights are missing, broken, or of another kind.
        """
        return self.generate(Request(identity, prompt, **arguments))

    @ordinary_tensors()
    def generate(self, request: Request) -> Portraits:
        """The pictures of a request with their likeness, the best of them where it asks for the best.

        Should the likeness not be measurable, all pictures are kept without it, and a `UserWarning` says why. Several
        people without regions are put where the base alone draws faces: by what is said of each where the preset's
        networks can compare words with faces, else from left to right; `Portraits.placements` tells which. A seed with
        too few faces is replaced by another one, which a `UserWarning` tells.

        Raises:
            InputError, IncompatibleIdentityError, CheckpointError, PromptTooLongError: see `__call__`.
            FaceError: too few faces for several people, whatever the seed.
            CancelledError: `request.cancelled` said so.
        """
        with self.at_work():
            people = self._people(request)
            self.checked_analyzer()  # what cannot be loaded is told before the long work, not after it
            self._remark(request, stacklevel=4)
            batches = []
            if len(people) > 1 and request.regions is None:
                for picture, placement in placed(self, request):
                    batches.append(self._batch(picture, self.draw(picture), placement))
            else:
                batches.append(self._batch(request, self.draw(request)))
            return self._finished(request, batches)

    @ordinary_tensors()
    def generate_batch(
        self,
        requests: Sequence[Request],
        around: Callable[[int], AbstractContextManager[Any]] = lambda _: nullcontext(),
    ) -> list[Portraits | Exception]:
        """The pictures of several requests, each of its own person, sampled in one batch, which is faster.

        They are those of `generate` up to rounding: sums are added up in another order, so single values of a picture
        may differ by a level. One request alone is exactly `generate`.

        Args:
            requests: all of one `Request.batch_key`, which is not None.
            around: called with the number of a request; what concerns it alone, its warnings among it, happens
                within the context that it returns.

        Returns:
            Of each request its portraits, or its error: one that fails or is cancelled does not hurt the others.

        Raises:
            InputError: the requests cannot be sampled in one batch.
        """
        defaults = self.preset.settings
        if len(requests) > 1 and (len(keys := {one.batch_key(defaults) for one in requests}) > 1 or None in keys):
            raise InputError(
                "these requests cannot be sampled in one batch; give such of the same Request.batch_key, or one alone"
            )
        found: dict[int, Portraits | Exception] = {}

        def attempt(number: int, work: Callable[[], Portraits | None]) -> None:
            try:
                with around(number):
                    made = work()
            except Exception as error:  # of this one alone
                found[number] = error
            else:
                if made is not None:
                    found[number] = made

        def check(request: Request) -> None:
            self._people(request)
            self.checked_analyzer()
            self.sampler.check(request)
            self._remark(request, stacklevel=4)

        with self.at_work():
            if len(requests) > 1:
                for number, request in enumerate(requests):
                    attempt(number, partial(check, request))
            together = [number for number in range(len(requests)) if number not in found]
            drawn: list[Sampled | Exception] = []
            if len(together) > 1:
                try:
                    drawn = self.sampler.sample_together([requests[number] for number in together], defaults)
                except CancelledError as error:
                    drawn = [error] * len(together)
                except Exception:  # it is not known whose fault it was, so each has its own chance
                    drawn = []
            for place, number in enumerate(together):
                sampled = drawn[place] if drawn else None
                if isinstance(sampled, Exception):
                    found[number] = sampled
                elif sampled:
                    batch = self._batch(requests[number], sampled)
                    attempt(number, partial(self._finished, requests[number], [batch], stacklevel=5))
                else:
                    attempt(number, partial(self.generate, requests[number]))
        return [found[number] for number in range(len(requests))]

    def _remark(self, request: Request, stacklevel: int) -> None:
        """Warns of what of a request will hardly come out as it is meant."""
        for remark in self.sampler.remarks(request, self.preset.settings):
            warnings.warn(remark, stacklevel=stacklevel)

    def _finished(self, request: Request, batches: Sequence[_Batch], stacklevel: int = 4) -> Portraits:
        """The pictures of a request with their likeness, the best of them where it asks for the best."""
        made = Portraits.together([batch.portraits for batch in batches])
        drawn = [picture for batch in batches for picture in batch.pictures]
        report(request, Step("scoring", len(made), len(made)))
        try:
            made = self._judged(made, drawn, request)
        except Exception as error:  # whatever it is, finished pictures are not lost to it
            if isinstance(error, CancelledError):
                raise
            warnings.warn(
                f"the likeness could not be measured ({first_line(error)}); all {len(made)} pictures are kept"
                " without it",
                stacklevel=stacklevel,
            )
            return made
        if not request.best_of:
            return made
        order: list[int] = []
        for start in range(0, len(made), request.made):
            group = range(start, start + request.made)
            best = sorted(
                group, key=lambda i: -math.inf if math.isnan(made.scores[i]) else made.scores[i], reverse=True
            )
            order += best[: request.num_images_per_prompt]
        return made.chosen(order)

    @ordinary_tensors()
    def sample(self, request: Request) -> Portraits:
        """All pictures of a request, their likeness not measured.

        Raises:
            ArgumentError: `repair`, which needs it.
            InputError, IncompatibleIdentityError, CheckpointError, PromptTooLongError, CancelledError: see `generate`.
        """
        if request.repair:
            raise ArgumentError("{repair} needs the likeness, which is not measured here; call `generate`")
        with self.at_work():
            if not request.base_alone:
                self._people(request)
            return self._batch(request, self.draw(request)).portraits

    @ordinary_tensors()
    def score(
        self,
        images: Sequence[Image.Image],
        identity: Identity | Sequence[Identity],
        regions: Sequence[Regions | None] | None = None,
    ) -> list[Any]:
        """Likeness of each picture: cosine of two embeddings, -1 to 1.

        Args:
            images: RGB pictures.
            identity: one person, who is compared to the largest face, or several.
            regions: of each picture, where the people are; without them faces and people are matched by likeness.

        Returns:
            For each picture a number, NaN where no face is found; of several people a list of numbers.
        """
        people = [identity] if isinstance(identity, Identity) else list(identity)
        where = regions or [None] * len(images)
        with self.at_work(), self.faces_at_work():
            found = [
                find_people(self.analyzer, image, people, places).likenesses
                for image, places in zip(images, where, strict=True)
            ]
        return [each[0] for each in found] if isinstance(identity, Identity) else found

    @ordinary_tensors()
    def repair(
        self,
        picture: Photo,
        identity: Identity | Sequence[Identity],
        prompt: str = "a person",
        *,
        regions: Regions | Sequence[Region | None] | None = None,
        below: float | None = None,
        tries: int = 1,
        **arguments: Any,
    ) -> Portraits:
        """A picture from anywhere with its small faces drawn anew as these people; all else stays to the last bit.

        Args:
            picture: path or picture.
            identity: the person, who is the largest face; or several people.
            prompt: what is said of the faces; `person_prompts` says it of each.
            regions: where each person is; without them faces and people are matched by likeness.
            below: also faces whose likeness is below this, whatever their size.
            tries: how often each is drawn at most, see `Request.repair_tries`.
            arguments: others of `Request`, such as ``seed`` and ``person_prompts``.

        Returns:
            One picture; its `repairs` tell of each face that was drawn anew, and is empty if none was small.

        Raises:
            NoFaceError: the picture shows no face, or none in a region.
            InputError, IncompatibleIdentityError, CheckpointError, PromptTooLongError, CancelledError: see `generate`.
        """
        image = read_photo(picture, "picture")
        request = Request(
            identity, prompt, image=image, regions=regions, repair=True, repair_below=below, repair_tries=tries,
            **arguments,
        )  # fmt: skip
        return self.repair_request(request)

    @ordinary_tensors()
    def repair_request(self, request: Request) -> Portraits:
        """What `repair` does, as a request: its `image` is the picture, and `repair` is set.

        Raises:
            ArgumentError: no such picture, or arguments that are about drawing all of one anew.
            NoFaceError, InputError, ...: see `repair`.
        """
        image = request.repaired_picture
        with self.at_work():
            people = self._people(request)
            places = request.places
            with self.faces_at_work():
                seen = find_people(self.analyzer, image, people, places)
            if all(number is None for number in seen.numbers):
                raise NoFaceError("no face of these people found in the picture, so there is nothing to repair")
            row = request.rows()[0]
            made = Portraits(
                [image], [math.nan], [row.seed], [False], [row.prompt], record_of(request, self.preset), scored=False,
                provenance=self.provenance, kept=image,
            )  # fmt: skip
            return self._judged(made, [_Drawn(image, None, places)], request)

    # --------------------------------------------------------------------------------------------------------- stages

    def _people(self, request: Request) -> list[Identity]:
        """The people of a request, whose networks are compared before the base is loaded, which may be slow."""
        if not request.people:
            raise ArgumentError("{identity} is missing; make one with identify(photo), or Identity.load(file)")
        for person in request.people:
            self.adapter.check_identity(person)
        return list(request.people)

    def _batch(self, request: Request, out: Sampled, placement: Placement | None = None) -> _Batch:
        """The pictures, and of each what was sampled, which with a mask is a part of it."""
        portraits = Portraits(
            out.images,
            [math.nan] * len(out.rows),
            [row.seed for row in out.rows],
            out.withheld,
            [row.prompt for row in out.rows],
            record_of(request, self.preset),
            scored=False,
            placements=[placement.record()] * len(out.rows) if placement else [],
            provenance=self.provenance,
            kept=request.pictures[0] if request.mask else None,
        )
        return _Batch(portraits, [_Drawn(window, out.regions, request.places) for window in out.windows])

    def _judged(self, made: Portraits, drawn: Sequence[_Drawn], request: Request) -> Portraits:
        """The pictures with their likeness, and repaired where the request says so."""
        people = list(request.people)
        several = len(people) > 1 or request.regions is not None
        with self.faces_at_work():
            likenesses = [find_people(self.analyzer, one.window, people, one.regions).likenesses for one in drawn]
        if request.repair:
            images, repairs = list(made.images), []
            for number, (one, row) in enumerate(zip(drawn, map(Row, made.prompts, made.seeds), strict=True)):
                images[number], done = redraw_faces(self, images[number], request, one.places, row, number)
                repairs.append([repaired.record() for repaired in done])
                for repaired in done:
                    if repaired.kept:
                        likenesses[number][repaired.person] = repaired.after
            made = replace(made, images=images, repairs=repairs)
        told = [
            [
                {"likeness": likeness, **({"region": where.plain()[person]} if (where := one.places) else {})}
                for person, likeness in enumerate(each)
            ]
            for one, each in zip(drawn, likenesses, strict=True)
        ]
        scores = [math.nan if any(map(math.isnan, each)) else min(each) for each in likenesses]
        return replace(made, scores=scores, scored=True, people=told if several else [])


@dataclass(frozen=True)
class _Drawn:
    """One picture as it was sampled.

    Attributes:
        window: what was sampled.
        regions: of the people in it.
        places: the same in the picture that it is part of.
    """

    window: Image.Image
    regions: Regions | None
    places: Regions | None


@dataclass(frozen=True)
class _Batch:
    """The pictures of a request, not yet scored, and how each was sampled."""

    portraits: Portraits
    pictures: list[_Drawn]
