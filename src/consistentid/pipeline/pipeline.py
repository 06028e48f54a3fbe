"""`ConsistentIDPipeline`: the networks of a preset put together; photos and a prompt in, portraits and likeness out."""

from __future__ import annotations

import math
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import cached_property, partial
from operator import attrgetter
from os import PathLike
from typing import Any

import torch
from PIL import Image

from consistentid.adapter.adapter import ConsistentID
from consistentid.adapter.identify import IdentityEncoder
from consistentid.adapter.identity import Identity
from consistentid.adapter.regions import Region, Regions
from consistentid.errors import (
    ArgumentError,
    CancelledError,
    FaceError,
    InputError,
    NoFaceError,
    first_line,
)
from consistentid.faces.analyzer import FaceAnalyzer
from consistentid.faces.caption import Captioner
from consistentid.faces.face import Detection
from consistentid.faces.matching import assign, similarities
from consistentid.faces.onnx import onnx_providers
from consistentid.faces.recognition import OnnxRecogniser
from consistentid.faces.sight import Sight, look
from consistentid.files.devices import (
    fast_bfloat16,
    moved,
    ordinary_tensors,
    resolve_device,
    resolve_dtype,
    torch_threads,
)
from consistentid.files.images import Photo, pixel_digest, read_photo
from consistentid.files.output import versions
from consistentid.pipeline.placement import NO_PAIR, NO_WORDS, Placement, likeness_to_words, told_apart
from consistentid.pipeline.places import faces_in, regions_of
from consistentid.pipeline.portraits import Portraits
from consistentid.pipeline.repair import STRENGTH, Repaired, face_mask, is_small
from consistentid.pipeline.request import SEEDS, Request, Step
from consistentid.pipeline.sampling import Sampled, Sampler, report
from consistentid.presets.clip_pair import ClipEncoder, clip_of_preset
from consistentid.presets.loading import (
    check_width,
    load_analyzer,
    load_base,
    load_controlnet,
    load_image_encoder,
    load_lora,
    loading,
    network_name,
)
from consistentid.presets.network import Network
from consistentid.presets.preset import Preset
from consistentid.presets.read import load_preset
from consistentid.provenance.marks import Provenance

TRIES = 8
"""Seeds that are tried for a picture of several people until the base draws as many faces."""


class ConsistentIDPipeline:
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
        self.preset = preset
        self.device = resolve_device(device)
        self.dtype = resolve_dtype(dtype or preset.dtype, self.device)
        self._auto_dtype = (dtype or preset.dtype) == "auto"
        self.low_memory, self.fold, self.provenance = low_memory, fold, provenance
        self._lock = threading.RLock()

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

    @cached_property
    @ordinary_tensors()
    def adapter(self) -> ConsistentID:
        """The ConsistentID weights."""
        network = self.preset.adapter
        with loading("adapter", network):
            if network.path or network.files:
                return ConsistentID.from_pretrained(network.fetch())
            return ConsistentID.from_pretrained(network.repo, revision=network.revision)

    @cached_property
    @ordinary_tensors()
    def pipe(self) -> Any:
        """The diffusers pipeline with the adapter attached.

        Raises:
            CheckpointError: weights are missing, broken, or of another kind.
        """
        with loading("base", self.preset.base):
            pipe = load_base(self.preset, self.adapter.spec.text_dim, self.dtype)
            pipe.to("cpu" if self.low_memory else self.device)
        for number, lora in enumerate(self.preset.loras, 1):
            with loading(f"lora {number}", lora):
                load_lora(pipe, lora, f"lora{number}")
        if self.preset.loras:
            names = [f"lora{number}" for number, _ in enumerate(self.preset.loras, 1)]
            pipe.set_adapters(names, [lora.scale for lora in self.preset.loras])
        self.adapter.to(dtype=self.dtype).attach(pipe, fold=self.fold)
        return self._ready(pipe)

    @cached_property
    @ordinary_tensors()
    def controlnet(self) -> Any:
        """The ControlNet.

        Raises:
            InputError: the preset has none.
            CheckpointError: its weights are missing, broken, or of another kind.
        """
        network = self.preset.controlnet
        if network is None:
            raise InputError(
                "control is a picture for a ControlNet, and none is chosen; name one: --control-model on the command"
                " line, from_preset(..., controlnet=...) in Python, controlnet in a preset's YAML file"
            )
        with loading("controlnet", network):
            controlnet = load_controlnet(network, self.dtype)
            return controlnet.to("cpu" if self.low_memory else self.device)

    @cached_property
    def sampler(self) -> Sampler:
        """What draws with `pipe`."""
        return Sampler(self.pipe, self.adapter, lambda: self.controlnet, self._ready)

    def _ready(self, pipe: Any) -> Any:
        """A pipeline as this object wants it to sample."""
        pipe.set_progress_bar_config(disable=True)
        if self.low_memory:
            pipe.vae.enable_slicing()
            pipe.vae.enable_tiling()
            if self.device.type != "cpu":
                pipe.enable_model_cpu_offload(device=self.device)
        return pipe

    @cached_property
    @ordinary_tensors()
    def analyzer(self) -> FaceAnalyzer:
        """The face networks.

        Raises:
            CheckpointError: weights are missing, broken, or of another kind.
        """
        return load_analyzer(self.preset, "cpu" if self.low_memory else self.device)

    def _checked_analyzer(self) -> FaceAnalyzer:
        """The face networks, whose embeddings the adapter can read."""
        recogniser: Any = self.analyzer.recogniser
        with loading("recogniser", self.preset.recogniser):
            check_width("recogniser", self.preset.recogniser, "embeddings", recogniser.width, self.adapter.spec.id_dim)
        return self.analyzer

    @cached_property
    @ordinary_tensors()
    def encoder(self) -> IdentityEncoder:
        """Face networks and image encoder, which make an `Identity` of photos.

        Raises:
            CheckpointError: weights are missing, broken, or of another kind.
        """
        preset = self.preset
        analyzer = self._checked_analyzer()
        with loading("image_encoder", preset.image_encoder):
            # Nearly all of the time that a person takes on a CPU; its features are kept in half precision anyway.
            faster = self._auto_dtype and fast_bfloat16(self.device)
            dtype = torch.bfloat16 if faster else self.dtype
            image_encoder, processor = load_image_encoder(preset.image_encoder, dtype, self.adapter.spec.clip_dim)
        used = {"recogniser": preset.recogniser, "image_encoder": preset.image_encoder, "parser": preset.parser}
        return IdentityEncoder(
            analyzer,
            image_encoder,
            processor,
            part_layout=self.adapter.spec.part_layout,
            canvas_size=self.adapter.spec.canvas_size,
            provenance={role: network_name(network) for role, network in used.items()},
            same_person=preset.same_person,
        )

    @cached_property
    @ordinary_tensors()
    def clip_pair(self) -> ClipEncoder | None:
        """The image encoder with the text encoder that goes with it; None where the preset has none.

        Raises:
            CheckpointError: weights are missing, broken, or of another kind.
        """
        encoder = self.encoder
        return clip_of_preset(
            self.preset, encoder.image_encoder, encoder.processor, self.pipe.tokenizer, device=self.device
        )

    @cached_property
    def judge(self) -> OnnxRecogniser:
        """The recogniser that scores and never conditions.

        Raises:
            InputError: the preset has none.
            CheckpointError: its weights are missing or broken.
        """
        network = self.preset.judge
        if network is None:
            raise InputError(
                f"the preset {self.preset.name!r} has no judge; name a recogniser as judge in its YAML file"
            )
        with loading("judge", network):
            return OnnxRecogniser(network.fetch(), onnx_providers("cpu" if self.low_memory else self.device))

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
        with self._at_work(), self._faces():
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
        with self._at_work(), moved(self.device, self.encoder.image_encoder):
            identity = self.encoder.combine(sights, captioner)
            if self.low_memory:
                del self.encoder
        return identity

    @contextmanager
    def _at_work(self) -> Iterator[None]:
        """One call at a time, and on a CPU with as many threads as the preset asks for."""
        threads = self.preset.threads if self.device.type == "cpu" else 0
        with self._lock, torch_threads(threads or torch.get_num_threads()):
            yield

    @contextmanager
    def _faces(self) -> Iterator[None]:
        """The face networks on the device, for as long as they are used."""
        parser: Any = self.analyzer.parser
        with moved(self.device, parser.network):
            yield

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
        with self._at_work():
            people = self._people(request)
            self._checked_analyzer()  # what cannot be loaded is told before the long work, not after it
            self._remark(request, stacklevel=4)
            batches = (
                [self._sample_placed(*placed) for placed in self._placed(request)]
                if len(people) > 1 and request.regions is None
                else [self._sample(request)]
            )
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
            self._checked_analyzer()
            self.sampler.check(request)
            self._remark(request, stacklevel=4)

        with self._at_work():
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
        for remark in self.sampler.remarks(request, self.preset.settings, taught=self.preset.drawings_only):
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
            InputError, IncompatibleIdentityError, CheckpointError, PromptTooLongError, CancelledError: see `generate`.
        """
        with self._at_work():
            if not request.base_alone:
                self._people(request)
            return self._sample(request).portraits

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
        with self._at_work(), self._faces():
            found = [self._see(image, people, places).likenesses for image, places in zip(images, where, strict=True)]
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
        **arguments: Any,
    ) -> Portraits:
        """A picture from anywhere with its small faces drawn anew as these people; all else stays to the last bit.

        Args:
            picture: path or picture.
            identity: the person, who is the largest face; or several people.
            prompt: what is said of the faces; `person_prompts` says it of each.
            regions: where each person is; without them faces and people are matched by likeness.
            below: also faces whose likeness is below this, whatever their size.
            arguments: others of `Request`, such as ``seed`` and ``person_prompts``.

        Returns:
            One picture; its `repairs` tell of each face that was drawn anew, and is empty if none was small.

        Raises:
            NoFaceError: the picture shows no face, or none in a region.
            InputError, IncompatibleIdentityError, CheckpointError, PromptTooLongError, CancelledError: see `generate`.
        """
        image = read_photo(picture, "picture")
        request = Request(identity, prompt, image=image, regions=regions, repair=True, repair_below=below, **arguments)
        with self._at_work():
            people = self._people(request)
            places = request.places
            with self._faces():
                seen = self._see(image, people, places)
            if all(number is None for number in seen.numbers):
                raise NoFaceError("no face of these people found in the picture, so there is nothing to repair")
            row = request.rows()[0]
            made = Portraits(
                [image], [math.nan], [row.seed], [False], [prompt], self._record(request), scored=False,
                provenance=self.provenance, kept=image,
            )  # fmt: skip
            return self._judged(made, [_Drawn(image, None, places)], request)

    # --------------------------------------------------------------------------------------------------------- stages

    def _people(self, request: Request) -> list[Identity]:
        """The people of a request, whose networks are compared before the base is loaded, which may be slow."""
        if not request.people:
            raise ArgumentError("{identity} is missing; make one with identify(photo), or Identity.load(file)")
        for person in request.people:
            person.check_networks(self.adapter.spec.networks)
        return list(request.people)

    def _sample(self, request: Request) -> _Batch:
        """The pictures, and of each what was sampled, which with a mask is a part of it."""
        return self._batch(request, self.sampler.sample(request, self.preset.settings))

    def _batch(self, request: Request, out: Sampled) -> _Batch:
        record = self._record(request)
        prompts, seeds = [row.prompt for row in out.rows], [row.seed for row in out.rows]
        unknown = [math.nan] * len(seeds)
        return _Batch(
            Portraits(
                out.images,
                unknown,
                seeds,
                out.withheld,
                prompts,
                record,
                scored=False,
                provenance=self.provenance,
                kept=request.pictures[0] if request.mask else None,
            ),
            [_Drawn(window, out.regions, request.places) for window in out.windows],
        )

    def _sample_placed(self, request: Request, placement: Placement) -> _Batch:
        batch = self._sample(request)
        return replace(batch, portraits=replace(batch.portraits, placements=[placement.record()] * len(batch.pictures)))

    def _placed(self, request: Request) -> Iterator[tuple[Request, Placement]]:
        """A request for each picture, with regions where the base alone draws faces from the same noise."""
        people, rows = request.people, request.rows()
        said = [text for text in request.person_prompts or () if text]
        for number, row in enumerate(rows):
            for attempt in range(TRIES):
                seed = (row.seed + attempt * request.made) % SEEDS
                first = self._sample(request.without_people(", ".join([row.prompt, *said]), seed)).portraits.images[0]
                with self._faces():
                    faces = sorted(self.analyzer.detector.detect(first), key=attrgetter("area"), reverse=True)
                if len(faces) >= len(people):
                    break
            else:
                raise FaceError(
                    f"the base draws fewer than {len(people)} faces for {row.prompt!r}, with {TRIES} seeds from"
                    f" {row.seed}; name the people in the prompt, or say with regions where each is"
                )
            if attempt:
                warnings.warn(
                    f"seed {row.seed} shows fewer than {len(people)} faces, so seed {seed} was taken instead",
                    stacklevel=4,
                )
            there = sorted(faces[: len(people)], key=lambda face: face.centre[0])
            placement = self._placement(request, first, there)
            regions = regions_of([there[face] for face in placement.faces], first.size)
            yield request.for_picture(row.prompt, seed, regions, number, len(rows)), placement

    def _placement(self, request: Request, first: Image.Image, faces: Sequence[Detection]) -> Placement:
        """Who goes to which of the faces of a first pass, which are given from left to right."""
        words = request.descriptions
        if not told_apart(words):
            return Placement.in_order(len(faces), NO_WORDS)
        with moved(self.device, self.encoder.image_encoder):
            pair = self.clip_pair
            placement = (
                Placement.in_order(len(faces), NO_PAIR)
                if pair is None
                else Placement.by_words(likeness_to_words(pair, first, faces, words))
            )
        if self.low_memory:
            del self.encoder, self.clip_pair
        return placement

    def _judged(self, made: Portraits, drawn: Sequence[_Drawn], request: Request) -> Portraits:
        """The pictures with their likeness, and repaired where the request says so."""
        people = list(request.people)
        several = len(people) > 1 or request.regions is not None
        with self._faces():
            likenesses = [self._see(one.window, people, one.regions).likenesses for one in drawn]
        if request.repair:
            images, repairs = list(made.images), []
            for number, one in enumerate(drawn):
                images[number], done = self._repaired(images[number], request, one.places, number, made)
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

    def _see(self, image: Image.Image, people: Sequence[Identity], regions: Regions | None) -> _Seen:
        """Which of a picture's faces is whose, and how alike it is; the face networks are where they compute."""
        faces = sorted(self.analyzer.detector.detect(image), key=attrgetter("area"), reverse=True)
        theirs = faces[:1] if len(people) == 1 and regions is None else faces
        embeddings = [self.analyzer.recogniser.embed(image, face.landmarks) for face in theirs]
        alike = similarities([person.embedding.numpy() for person in people], embeddings)
        numbers = faces_in(regions, faces, image.size) if regions else assign(alike)
        likenesses = [math.nan if face is None else float(alike[i, face]) for i, face in enumerate(numbers)]
        return _Seen(faces, numbers, likenesses)

    def _repaired(
        self, image: Image.Image, request: Request, places: Regions | None, picture: int, made: Portraits
    ) -> tuple[Image.Image, list[Repaired]]:
        """The picture with every small or unlike face of the request's people drawn anew."""
        people, native = list(request.people), self.sampler.native_size
        with self._faces():
            seen = self._see(image, people, places)
        done = []
        for person, (number, before) in enumerate(zip(seen.numbers, seen.likenesses, strict=True)):
            if number is None:
                continue
            face = seen.faces[number]
            unlike = request.repair_below is not None and before < request.repair_below
            if not is_small(face, native) and not unlike:
                continue
            mask = face_mask(face, image.size, [other for other in seen.faces if other is not face])
            close = request.close_up(person, made.prompts[picture], made.seeds[picture], image, mask, STRENGTH)
            new = self._sample(close).portraits.images[0]
            with self._faces():
                found = self._nearest(new, face)
                after = (
                    math.nan
                    if found is None
                    else float(self.analyzer.recogniser.embed(new, found.landmarks) @ people[person].embedding.numpy())
                )
            kept = after >= before
            box = tuple(round(float(value)) for value in face.box)
            done.append(Repaired(picture, person, (box[0], box[1], box[2], box[3]), before, after, kept))
            image = new if kept else image
        return image, done

    def _nearest(self, image: Image.Image, face: Detection) -> Detection | None:
        """The face of a picture that lies where another one was."""
        left, top, right, bottom = (float(value) for value in face.box)
        there = [
            found
            for found in self.analyzer.detector.detect(image)
            if left <= found.centre[0] <= right and top <= found.centre[1] <= bottom
        ]
        return max(there, key=attrgetter("area"), default=None)

    def _record(self, request: Request) -> dict[str, Any]:
        """How the pictures of a request are made, without anything that is of this machine alone."""
        settings, preset, people = request.settings(self.preset.settings), self.preset, request.people
        used: dict[str, Network | None] = {"base": preset.base, "adapter": preset.adapter}
        if request.control:
            used["controlnet"] = preset.controlnet
        given = zip(("image", "mask", "control"), request.pictures, strict=True)
        texts, parts = request.of_each("face_text"), request.of_each("parts")
        sentences = [
            person.face_text or None if text is None and not words else text
            for person, text, words in zip(people, texts, parts, strict=True)
        ]
        described = [dict(words or {}) for words in parts]
        scales = [dict(values or {}) for values in request.of_each("part_scales")]
        several = {
            "person_prompts": list(request.of_each("person_prompts")),
            "person_scales": [1.0 if scale is None else scale for scale in request.of_each("person_scales")],
            "base_ratio": request.base_ratio,
            "regions_end": request.regions_end,
        }
        return {
            "prompt": request.prompt if isinstance(request.prompt, str) else list(request.prompt),
            **settings.record(),
            "merge_at": request.merges(settings),
            "face_text": sentences if len(people) > 1 else (sentences or [request.face_text])[0],
            "parts": described if len(people) > 1 else (described or [{}])[0],
            "part_scales": scales if len(people) > 1 else (scales or [{}])[0],
            **(several if len(people) > 1 or request.regions is not None else {}),
            "base_alone": request.base_alone,
            "scheduler": preset.scheduler,
            "scheduler_options": dict(preset.scheduler_options),
            **({"strength": settings.strength} if request.image else {}),
            **({"control_scale": settings.control_scale} if request.control else {}),
            "given": {name: pixel_digest(picture) for name, picture in given if picture},
            "preset": preset.name,
            **{role: network_name(network) or network.repo for role, network in used.items() if network},
            "loras": [{"name": network_name(lora) or lora.repo, "scale": lora.scale} for lora in preset.loras],
            "networks": dict(people[0].provenance) if people else {},
            "versions": versions(),
            "ai_generated": True,
        }


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


@dataclass(frozen=True)
class _Seen:
    """All faces of a picture, largest first, and each person's: its number and its likeness, or None and NaN."""

    faces: list[Detection]
    numbers: list[int | None]
    likenesses: list[float]
