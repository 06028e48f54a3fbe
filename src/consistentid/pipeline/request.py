"""`Request`: every argument of a sampling call, validated once, whoever calls.

The pipeline's call, the command line, evaluation, validation during training, attention maps, the page and the service
make a `Request` and hand it on; none of them checks an argument by itself.

A further argument takes

- a field of `Request` with its line in the docstring; one that a preset has a default for is also a field of `Settings`
  with its range there and its name in `_SETTINGS` here, and is then checked, resolved and recorded by itself;
- a check in `__post_init__`, a function of `checks` that returns the value as it is kept, or raises an `ArgumentError`;
- where JSON has another form of it, a line in `from_dict` and in `to_dict`; what JSON cannot hold, in `_NOT_PLAIN`;
- what it does: before and around the pipeline's call in `sampling`, after it in `pipeline`; and if a picture should
  tell of it, an entry in `record`.
"""

from __future__ import annotations

import math
import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Self

from PIL import Image

from consistentid.adapter.identity import Identity
from consistentid.adapter.people import check_regions_end
from consistentid.adapter.prompt import FacialText
from consistentid.adapter.regions import Region, Regions
from consistentid.errors import ArgumentError
from consistentid.files.base64 import from_base64, to_data_url
from consistentid.files.images import Photo
from consistentid.pipeline.canvas import Canvas
from consistentid.pipeline.checks import (
    OF_EACH,
    PICTURES,
    check_counts,
    check_identity,
    check_of_each,
    check_pictures,
    check_prompt,
    check_repair,
    check_seed,
    check_setting,
    check_words,
)
from consistentid.presets.settings import Settings

if TYPE_CHECKING:
    from torch import Tensor

SEEDS = 2**32
"""Seeds are below it: torch's generator on the CPU uses no more bits."""

MOST_PICTURES = 1000
"""Pictures that one request may ask of a prompt."""

_SETTINGS: Mapping[str, str] = {
    "num_inference_steps": "steps",
    **{
        name: name
        for name in (
            "guidance_scale", "scale", "merge_at", "width", "height", "base_ratio", "negative_prompt", "strength",
            "control_scale", "batch_size",
        )
    },
}  # fmt: skip
"""Argument -> the field of `Settings` that it overrules."""

_ONCE: Mapping[str, Any] = {
    "num_images_per_prompt": 1, "best_of": None, "repair": False, "repair_below": None, "repair_tries": 1,
    "progress": None, "on_step": None,
}  # fmt: skip
"""What a request within a request does not take over: it is about a single picture."""

_NOBODY: Mapping[str, Any] = {
    **_ONCE, "regions": None, "person_prompts": None, "person_scales": None, "face_text": None, "parts": None,
    "part_scales": None, "merge_at": None, "base_ratio": None,
}  # fmt: skip
"""Nor what is said of people."""

_OF_ALL = ("mask", "strength", "control", "control_scale", "width", "height", "best_of")
"""Arguments that mean nothing where faces alone are drawn anew."""

_OF_A_FACE = ("face_text", "parts", "part_scales", "merge_at")

_NOT_PLAIN = ("identity", "progress", "on_step", "cancelled")


class Row(NamedTuple):
    """One picture to be made: its prompt and its seed."""

    prompt: str
    seed: int


@dataclass(frozen=True, eq=False)
class Step:
    """How far a request is; what `on_step` is called with.

    Attributes:
        stage: "encoding" when the texts of a batch are known and its sampling begins, "sampling" after each step,
            "scoring" before the likeness is measured.
        done, total: sampling steps of all pictures; `total` is 0 before the first step.
        seconds_left: of the sampling, from its speed so far; NaN before the first step.
        pictures: numbers of the pictures that are being sampled.
        texts: what the text encoders read of each prompt of the batch; empty for the base alone.
        size: (width, height) in pixels of what is sampled.
        step: index of the sampling step in the batch, -1 outside of sampling.
        latents: (B, C, h, w) after this step, not to be changed; None outside of sampling.
    """

    stage: Literal["encoding", "sampling", "scoring"]
    done: int
    total: int
    seconds_left: float = math.nan
    pictures: range = range(0)
    texts: tuple[FacialText, ...] = ()
    size: tuple[int, int] = (0, 0)
    step: int = -1
    latents: Tensor | None = None
    _decode: Callable[[Tensor], list[Image.Image]] | None = field(default=None, repr=False)

    def preview(self) -> list[Image.Image]:
        """The pictures as they are now, noise included, by one pass of the decoder; empty without latents."""
        return [] if self.latents is None or self._decode is None else self._decode(self.latents)


@dataclass(frozen=True, eq=False)
class Request:
    """Pictures wanted of a person. What is None comes from the preset's `Settings`.

    Numbers of numpy and lists of prompts are fine; pictures are paths, Pillow images, arrays (H, W, 3) in RGB order of
    uint8 or floats from 0 to 1, bytes or streams of a file, and are read at once. `replace` changes single arguments.

    Attributes:
        identity: from `ConsistentIDPipeline.identify` or `Identity.load`; may be left out until the request is run. Or
            several people, who are then all in every picture.
        prompt: what the pictures shall show: one text, or several of which each gets its own pictures.
        negative_prompt: what they shall not show.
        num_images_per_prompt: how many pictures, 1 to `MOST_PICTURES`.
        best_of: make so many of each prompt and keep the `num_images_per_prompt` of best likeness.
        seed: 0 to 2**32 - 1, of the first picture of each prompt, the others count up from it; or a list with the seed
            of every picture, prompt by prompt. Random by default.
        num_inference_steps: sampling steps.
        guidance_scale: classifier-free guidance; 1 or less = off.
        scale: strength of the identity tokens.
        merge_at: fraction of the steps after which the fused facial text takes over; one, or a list with each person's.
        regions: where each person is: boxes (left, top, right, bottom) in fractions of the picture, or masks of its
            shape, black outside. Several people without regions are put where a first pass draws faces.
        person_prompts: words about each person alone, such as "a woman in a red dress"; a list, '' for none.
        person_scales: strength of each person's identity tokens, a factor on `scale`; a list.
        base_ratio: share of the prompt alone within the regions, 0 to 1; one, or a list with each person's. That of the
            preset is not for people with `person_prompts`, who are to be as these say.
        regions_end: fraction of the steps after which every position follows the prompt alone; 1 by default.
        repair: draw faces that are too small for the base anew, at its full size, and put them back; but first draw
            people who have no face in their place.
        repair_below: with `repair`, also faces whose likeness is below this, -1 to 1.
        repair_tries: with `repair`, draw each of them up to so often, from other seeds and from the best so far, until
            it is as alike as `repair_below`, or without that no less than it was.
        height, width: pixels, the preset's by default, which may be wider for several people; with `image` or `control`
            the shape is that picture's, and these say how many pixels.
        image: picture to start from.
        mask: of its size, white where it is drawn anew: everything else stays as it is, to the last bit.
        strength: how far it is drawn anew, 0 to 1.
        control: picture for the ControlNet: a pose, depths or edges; of the shape of `image`.
        control_scale: strength of the ControlNet.
        face_text: the facial sentence; by default the identity's own or a fixed one, empty for none. Of several people
            a list with each one's, None for the default.
        parts: words for single parts, e.g. ``{"eyes": "green eyes"}``. Of several people a list with each one's.
        part_scales: how much of single parts' pictures is fused into their words, e.g. ``{"eyes": 0.5}``: 0 = nothing,
            1 = as trained, at most 2. Of several people a list with each one's.
        base_alone: draw with the base as if there were no adapter; `identity` is then only compared to.
        batch_size: pictures sampled at once.
        progress: called with (steps done, steps in all) after each step.
        on_step: called with a `Step` at each stage and after each step.
        cancelled: asked at each stage and step, such as `threading.Event().is_set`; once it says True the call ends
            with a `CancelledError`.

    Raises:
        ArgumentError: an argument out of its range, or arguments that do not go together.
        ImageError: a picture that cannot be read.
    """

    identity: Identity | Sequence[Identity] | None = None
    prompt: str | Sequence[str] = ""
    _: KW_ONLY
    negative_prompt: str | None = None
    num_images_per_prompt: int = 1
    best_of: int | None = None
    seed: int | Sequence[int] | None = None
    num_inference_steps: int | None = None
    guidance_scale: float | None = None
    scale: float | None = None
    merge_at: float | Sequence[float] | None = None
    regions: Regions | Sequence[Region | None] | None = None
    person_prompts: Sequence[str] | None = None
    person_scales: Sequence[float] | None = None
    base_ratio: float | Sequence[float] | None = None
    regions_end: float = 1.0
    repair: bool = False
    repair_below: float | None = None
    repair_tries: int = 1
    height: int | None = None
    width: int | None = None
    image: Photo | None = None
    mask: Photo | None = None
    strength: float | None = None
    control: Photo | None = None
    control_scale: float | None = None
    face_text: str | Sequence[str | None] | None = None
    parts: Mapping[str, str] | Sequence[Mapping[str, str] | None] | None = None
    part_scales: Mapping[str, float] | Sequence[Mapping[str, float] | None] | None = None
    base_alone: bool = False
    batch_size: int | None = None
    progress: Callable[[int, int], None] | None = None
    on_step: Callable[[Step], None] | None = None
    cancelled: Callable[[], bool] | None = None

    def __post_init__(self) -> None:
        for name, value in {
            "identity": check_identity(self.identity),
            "prompt": check_prompt(self.prompt),
            **check_counts(self.num_images_per_prompt, self.best_of, MOST_PICTURES),
            **{
                argument: check_setting(setting, value, argument)
                for argument, setting in _SETTINGS.items()
                if (value := getattr(self, argument)) is not None
            },
            **check_words(self.face_text, self.parts, self.part_scales, base_alone=self.base_alone),
            "regions_end": check_regions_end(self.regions_end),
            **check_repair(self.repair, self.repair_below, self.repair_tries, base_alone=self.base_alone),
        }.items():
            object.__setattr__(self, name, value)
        given = {name: getattr(self, name) for name in ("regions", *OF_EACH)}
        for name, value in check_of_each(given, len(self.people), base_alone=self.base_alone).items():
            object.__setattr__(self, name, value)
        object.__setattr__(self, "seed", check_seed(self.seed, len(self.prompts), self.made, SEEDS))
        for name, picture in check_pictures(self.image, self.mask, self.control).items():
            object.__setattr__(self, name, picture)
        for name, needed in (("strength", "image"), ("control_scale", "control")):
            if getattr(self, name) is not None and getattr(self, needed) is None:
                raise ArgumentError(
                    f"{{{name}}} says how {{{needed}}} is used; give {{{needed}}}, too, or leave it out"
                )

    # ----------------------------------------------------------------------------------------------- what is asked for

    @property
    def prompts(self) -> tuple[str, ...]:
        """The prompts, also where there is but one."""
        return (self.prompt,) if isinstance(self.prompt, str) else tuple(self.prompt)

    @property
    def people(self) -> tuple[Identity, ...]:
        """The people, also where there is but one."""
        if self.identity is None:
            return ()
        return (self.identity,) if isinstance(self.identity, Identity) else tuple(self.identity)

    @property
    def places(self) -> Regions | None:
        """`regions` as they were read."""
        return None if self.regions is None else Regions.read(self.regions)

    @property
    def repaired_picture(self) -> Image.Image:
        """The picture of which small faces alone are drawn anew.

        Raises:
            ArgumentError: there is none, or something is said of how all of a picture is drawn.
        """
        image = self.pictures[0]
        if image is None or not self.repair:
            raise ArgumentError("{image} is missing; give the picture whose faces are to be repaired")
        if meant := [name for name in _OF_ALL if getattr(self, name) is not None]:
            raise ArgumentError(f"{{{meant[0]}}} is about drawing all of a picture; leave it out to repair its faces")
        if len(self.prompts) * self.made > 1:
            raise ArgumentError("{num_images_per_prompt} and {prompt} ask for several pictures; one can be repaired")
        return image

    def merges(self, settings: Settings) -> float | list[float]:
        """`merge_at` of each person, or of all."""
        return list(self.merge_at) if isinstance(self.merge_at, Sequence) else settings.merge_at

    def base_ratios(self, settings: Settings) -> list[float]:
        """`base_ratio` of each person."""
        if self.base_ratio is None:
            return [0.0 if words else settings.base_ratio for words in self.of_each("person_prompts")]
        return list(self.of_each("base_ratio"))

    def of_each(self, name: str) -> Sequence[Any]:
        """An argument such as `face_text` for each person, also where it is given once for all."""
        value = getattr(self, name)
        return value if isinstance(value, tuple) else (value,) * len(self.people)

    @property
    def descriptions(self) -> tuple[str, ...]:
        """What is said of each person: their own words, or else of their face; empty where nothing is."""
        given = zip(
            self.people, *map(self.of_each, ("person_prompts", "face_text", "parts")), strict=True
        )  # fmt: skip
        return tuple(
            words or text or ", ".join((parts or {}).values()) or (person.face_text if text is None else "")
            for person, words, text, parts in given
        )

    @property
    def made(self) -> int:
        """How many pictures are made of each prompt."""
        return self.best_of or self.num_images_per_prompt

    def rows(self) -> list[Row]:
        """Every picture that is made, prompt by prompt; without `seed` with seeds of chance, others at each call."""
        if isinstance(self.seed, Sequence):
            seeds = list(self.seed)
        else:
            first = secrets.randbelow(SEEDS) if self.seed is None else self.seed
            seeds = [(first + number) % SEEDS for number in range(self.made)] * len(self.prompts)
        texts = [prompt for prompt in self.prompts for _ in range(self.made)]
        return [Row(prompt, seed) for prompt, seed in zip(texts, seeds, strict=True)]

    def settings(self, defaults: Settings) -> Settings:
        """How the pictures are made: `defaults`, such as those of a preset, with what this request overrules.

        Raises:
            ArgumentError: `strength` of so few steps is none.
        """
        given = {name: getattr(self, argument) for argument, name in _SETTINGS.items()}
        # what differs from person to person is no setting of the whole
        settings = defaults.with_overrides(**{name: x for name, x in given.items() if not isinstance(x, tuple)})
        if self.image is not None and int(settings.steps * settings.strength) < 1:
            raise ArgumentError(
                "{strength}={s} of {steps} steps is no step at all; raise one of them",
                s=settings.strength,
                steps=settings.steps,
            )
        return settings

    def batch_key(self, defaults: Settings) -> tuple[Any, ...] | None:
        """What requests must have in common to be sampled in one batch, each row its own person; None = only alone.

        Prompts, negative prompts, people, what is said of them, merge points and seeds differ from row to row. Steps,
        guidance, strength and size are those of the whole call. Pictures that are given, people in regions and the base
        alone take calls of another kind.

        Args:
            defaults: what the request leaves open.

        Raises:
            ArgumentError: see `settings`.
        """
        if self.base_alone or self.regions is not None or len(self.people) > 1 or any(self.pictures):
            return None
        settings = self.settings(defaults)
        shared = ("steps", "guidance_scale", "scale", "width", "height", "batch_size")
        return tuple(getattr(settings, name) for name in shared)

    def with_settings(self, overrides: Mapping[str, Any]) -> Self:
        """The same request with settings by their names in `Settings`, such as ``{"steps": 10}``."""
        arguments = {setting: argument for argument, setting in _SETTINGS.items()}
        return replace(self, **{arguments[name]: value for name, value in overrides.items()})

    @property
    def pictures(self) -> tuple[Image.Image | None, Image.Image | None, Image.Image | None]:
        """`image` in RGB, `mask` in "L" and `control` in RGB; `control` has the size of `image` if there is one."""
        image, mask, control = (getattr(self, name) for name in PICTURES)
        return image, mask, control

    def canvas(self, base: tuple[int, int]) -> Canvas | None:
        """What of the given pictures is sampled by a base of that (width, height); None without any.

        Raises:
            InputError: the mask is black.
        """
        image, mask, control = self.pictures
        if mask:
            return Canvas.around(mask, base)
        leading = image or control
        return Canvas.whole(leading.size, base) if leading else None

    # --------------------------------------------------------------------------------------- requests within a request

    def without_people(self, prompt: str, seed: int, size: tuple[int, int]) -> Self:
        """One picture of that prompt, seed and (width, height) by the base alone, to see where it draws people."""
        width, height = size
        return replace(
            self, **_NOBODY, identity=None, base_alone=True, prompt=prompt, seed=[seed], width=width, height=height
        )

    def for_picture(self, prompt: str, seed: int, regions: Regions, number: int, count: int) -> Self:
        """One of the pictures, with regions of its own.

        Args:
            prompt, seed: of the picture.
            regions: where the people are in it.
            number, count: which of how many it is; its progress is told as part of theirs.
        """

        def told(done: int, total: int) -> None:
            if self.progress:
                self.progress(number * total + done, count * total)

        return replace(
            self, prompt=prompt, seed=[seed], num_images_per_prompt=1, best_of=None, regions=regions, progress=told
        )

    def close_up(
        self, person: int, prompt: str, seed: int, image: Image.Image, mask: Image.Image, strength: float
    ) -> Self:
        """One person's face in a picture, drawn anew.

        Args:
            person: number of the person.
            prompt, seed: of the picture; where several people are in it, their own words are said instead.
            image: the picture.
            mask: the face.
            strength: how far it is drawn anew.
        """
        own = self.of_each("person_prompts")[person]
        return replace(
            self,
            **{**_NOBODY, **{name: self.of_each(name)[person] for name in _OF_A_FACE}},
            identity=self.people[person],
            prompt=own or (prompt if len(self.people) == 1 else "a person"),
            seed=[seed],
            image=image,
            mask=mask,
            strength=strength,
            control=None,
            control_scale=None,
            width=None,  # those of the picture say nothing of a face
            height=None,
        )

    def place_anew(
        self,
        people: Sequence[int],
        places: Regions,
        prompt: str,
        seed: int,
        image: Image.Image,
        mask: Image.Image,
        strength: float,
    ) -> Self:
        """A part of a picture drawn anew with those people who are in it, all that is said of them as it was.

        Args:
            people: their numbers.
            places: of all people of the request.
            prompt: of the picture.
            seed: another than the picture's.
            image: the picture.
            mask: the part.
            strength: how far it is drawn anew.
        """
        given = {name: value for name in OF_EACH if isinstance(value := getattr(self, name), tuple)}
        control = self.pictures[2]  # the picture was drawn in its shape but for rounding
        return replace(
            self,
            **{**_ONCE, **{name: [value[person] for person in people] for name, value in given.items()}},
            identity=[self.people[person] for person in people],
            regions=Regions(tuple(places.areas[person] for person in people)),
            prompt=prompt,
            seed=[seed],
            image=image,
            mask=mask,
            strength=strength,
            control=control and control.resize(image.size, Image.Resampling.LANCZOS),
        )

    # ------------------------------------------------------------------------------------------------- as plain values

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], **objects: Any) -> Self:
        """A request from the values of a JSON document, which say nothing of files of this machine.

        Args:
            values: argument -> number, text, list or mapping; a picture is the content of a file in base64, or a data
                URL of it ("data:image/png;base64,...").
            objects: arguments that are no plain values: `identity`, and the callbacks.

        Raises:
            ArgumentError, ImageError: as for `Request`; an unknown name, or one that is not a plain value.
        """
        plain = plain_arguments()
        if unknown := [name for name in values if name not in plain]:
            raise ArgumentError(f"unknown argument {unknown[0]!r}; known are {', '.join(plain)}")
        given = dict(values)
        for name in PICTURES:
            if given.get(name) is not None:
                given[name] = _picture_from(name, given[name])
        if isinstance(given.get("regions"), Sequence) and not isinstance(given["regions"], str):
            given["regions"] = [_picture_from("regions", x) if isinstance(x, str) else x for x in given["regions"]]
        return cls(**given, **objects)

    def to_dict(self) -> dict[str, Any]:
        """What `from_dict` reads: the arguments that differ from their defaults, without identity and callbacks."""
        found = {}
        for item in fields(self):
            value = getattr(self, item.name)
            if item.name in _NOT_PLAIN or value is None or value == item.default:
                continue
            match value:
                case Image.Image():
                    value = to_data_url(value)
                case Regions():
                    value = [x if isinstance(x, list) else to_data_url(x) for x in value.given()]
                case tuple():
                    value = [dict(x) if isinstance(x, Mapping) else x for x in value]
                case Mapping():
                    value = dict(value)
            found[item.name] = value
        return found


def plain_arguments() -> tuple[str, ...]:
    """The arguments that `Request.from_dict` knows."""
    return tuple(item.name for item in fields(Request) if item.name not in _NOT_PLAIN)


def _picture_from(name: str, value: Any) -> bytes:
    try:
        return from_base64(value)
    except ValueError:
        shown = value if isinstance(value, str) and len(value) < 60 else f"{str(value)[:40]}..."
        raise ArgumentError(
            f"{{{name}}}={{value!r}} is not a picture; give the content of its file in base64", value=shown
        ) from None
