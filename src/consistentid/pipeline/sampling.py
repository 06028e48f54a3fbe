"""`Sampler`: the one place that calls a diffusers pipeline, for whatever a `Request` asks."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import Any

import torch
from PIL import Image

from consistentid.adapter.adapter import ConsistentID
from consistentid.adapter.merge import Callback
from consistentid.adapter.prompt import FacialText
from consistentid.adapter.regions import Regions
from consistentid.errors import ArgumentError, CancelledError, PipelineError
from consistentid.pipeline.canvas import Canvas
from consistentid.pipeline.checks import OF_EACH
from consistentid.pipeline.given import call_arguments, check_base, inpaints, keeping, regions_in
from consistentid.pipeline.guidance import guided_steps
from consistentid.pipeline.pixels import pictures
from consistentid.pipeline.progress import Watch
from consistentid.pipeline.remarks import remarks
from consistentid.pipeline.remembered import RememberedInputs
from consistentid.pipeline.request import Request, Row
from consistentid.presets.settings import Settings


@dataclass(frozen=True)
class Sampled:
    """The pictures of a request, one for each of its rows.

    Attributes:
        rows: prompt and seed of each.
        windows: what was sampled.
        images: the pictures that these are part of; the same without a mask.
        withheld: whether the base's safety checker blacked it out.
        regions: where each of several people is in what was sampled.
    """

    rows: list[Row]
    windows: list[Image.Image]
    images: list[Image.Image]
    withheld: list[bool]
    regions: Regions | None = None


class Sampler:
    """Draws what requests ask for. `inputs` of the adapter are made once for an identity and a text.

    Args:
        pipe: a text-to-image pipeline with the adapter attached.
        adapter: attached to it.
        controlnet: gives the ControlNet when one is asked for, or raises.
        prepare: makes a sibling of `pipe` ready to sample.
    """

    def __init__(
        self,
        pipe: Any,
        adapter: ConsistentID,
        controlnet: Callable[[], Any] | None = None,
        prepare: Callable[[Any], Any] = lambda pipe: pipe,
    ) -> None:
        self.pipe, self.adapter = pipe, adapter
        self._controlnet, self._prepare = controlnet, prepare
        self._inputs = RememberedInputs(adapter, pipe)

    @property
    def native_size(self) -> tuple[int, int]:
        """(width, height) in pixels that the base was made for."""
        size = self.pipe.unet.config.sample_size
        height, width = (size, size) if isinstance(size, int) else size
        return width * self.pipe.vae_scale_factor, height * self.pipe.vae_scale_factor

    def size(self, request: Request, settings: Settings) -> tuple[int, int]:
        """(width, height) in pixels of what is drawn without given pictures; of these it says how many pixels."""
        width, height = self.native_size
        width, height = settings.width or width, settings.height or height
        return (width if request.width else _widened(width, request, settings)), height

    def canvas(self, request: Request, settings: Settings) -> tuple[Canvas | None, tuple[int, int]]:
        """What of given pictures is sampled, if there are any, and the (width, height) that is sampled."""
        size = self.size(request, settings)
        canvas = request.canvas(size)
        return canvas, canvas.size if canvas else size

    def remarks(self, request: Request, defaults: Settings) -> Iterator[str]:
        """What of a request will hardly come out as it is meant; see `remarks`."""
        settings = request.settings(defaults)
        canvas, size = self.canvas(request, settings)
        width, height = self.native_size
        made_for = _widened(width, request, settings), height
        return remarks(request, self.pipe.tokenizer, made_for, None if canvas else size)

    def sample(self, request: Request, defaults: Settings) -> Sampled:
        """All pictures of a request; the pipeline and the adapter are afterwards as they were, whatever happens.

        Args:
            request: what is wanted.
            defaults: what it leaves open.

        Raises:
            InputError: no identity, or one of `Request`'s errors that only the base can tell.
            CancelledError: `request.cancelled` said so.
            IncompatibleIdentityError, PromptTooLongError, PipelineError: see `ConsistentID.inputs`.
        """
        settings = request.settings(defaults)
        if request.identity is None and not request.base_alone:
            raise ArgumentError(
                "no {identity}: say who is to be drawn, with identify(photo) or Identity.load(file); or draw with the"
                " {base_alone}=True"
            )
        if len(request.people) > 1 and request.regions is None and not request.base_alone:
            raise ArgumentError(
                "{identity}: {count} people need {regions}; say where each is", count=len(request.people)
            )
        check_base(self.pipe, request)
        pipe = self._pipe_for(request)
        canvas, size = self.canvas(request, settings)
        request = replace(request, regions=regions_in(request, canvas, size))
        rows = request.rows()
        watch = Watch(request, len(rows), pipe)
        windows: list[Image.Image] = []
        withheld: list[bool] = []
        alone: AbstractContextManager[Any] = self.adapter.suspended() if request.base_alone else nullcontext()
        with alone, _hooks_freed(pipe):
            self.adapter.scale = settings.scale
            for start in range(0, len(rows), settings.batch_size):
                batch = rows[start : start + settings.batch_size]
                watch.begin(range(start, start + len(batch)), self._texts(request, batch), size)
                output = self._call(pipe, request, settings, canvas, size, batch, watch)
                windows += pictures(pipe, output.images, batch)
                withheld += getattr(output, "nsfw_content_detected", None) or [False] * len(batch)
        image, mask, _ = request.pictures
        if image is None or mask is None or canvas is None:
            return Sampled(rows, windows, windows, withheld, request.places)
        images = [canvas.paste(window, image, mask) for window in windows]
        return Sampled(rows, windows, images, withheld, request.places)

    def forget(self) -> None:
        """Lets go of the inputs that were made of identities and texts."""
        self._inputs.clear()

    def check(self, request: Request) -> None:
        """Makes sure that the texts of a request of one person fit the base, as `sample` does, and warns as it does.

        Raises:
            PromptTooLongError, PipelineError: see `ConsistentID.inputs`.
        """
        check_base(self.pipe, request)
        self._facial_texts(request, request.prompts, warn=True)

    def sample_together(self, requests: Sequence[Request], defaults: Settings) -> list[Sampled | Exception]:
        """The pictures of several requests in one batch, each row with its own person.

        Args:
            requests: of one `Request.batch_key`, which went through `check`; two or more.
            defaults: what they leave open.

        Returns:
            What `sample` returns of each, up to rounding, or the error of a request that was cancelled or whose
            pictures are no numbers: the others are not hurt.

        Raises:
            CancelledError: all of them were cancelled.
        """
        pipe = self.pipe
        settings = requests[0].settings(defaults)
        size = self.size(requests[0], settings)
        rows = [request.rows() for request in requests]
        flat = [(request, row) for request, own in zip(requests, rows, strict=True) for row in own]
        watches = [Watch(request, len(own), pipe) for request, own in zip(requests, rows, strict=True)]
        ends = list(itertools.accumulate(len(own) for own in rows))
        places = [slice(end - len(own), end) for end, own in zip(ends, rows, strict=True)]
        broken: dict[int, CancelledError] = {}

        def tell(each: Callable[[int], None]) -> None:
            for number in range(len(requests)):
                if number not in broken:
                    try:
                        each(number)
                    except CancelledError as error:
                        broken[number] = error
            if len(broken) == len(requests):
                raise CancelledError(f"all {len(requests)} requests of the batch were cancelled")

        def begin(number: int) -> None:
            texts = self._texts(requests[number], rows[number])
            watches[number].begin(range(len(rows[number])), texts, size)

        def after_step(pipe: Any, step: int, _timestep: Any, tensors: dict[str, Any]) -> dict[str, Any]:
            tell(lambda number: watches[number].after_step(pipe, step, tensors["latents"][places[number]]))
            return {}

        with _hooks_freed(pipe):
            tell(begin)
            self.adapter.scale = settings.scale
            asked = [(request, request.settings(defaults)) for request, _ in flat]
            negatives = [own.negative_prompt for _, own in asked]
            each: dict[str, Any] = {name: [request.of_each(name)[0] for request, _ in flat] for name in OF_EACH}
            each["merge_at"] = [_only(request.merges(own)) for request, own in asked]
            each["base_ratio"] = [request.base_ratios(own)[0] for request, own in asked]
            inputs = self.adapter.inputs(
                [request.people[0] for request, _ in flat],
                [row.prompt for _, row in flat],
                negatives if any(negatives) else None,
                **each,
                guidance_scale=settings.guidance_scale,
                warn=False,  # `check` has told each
            )
            output = _run(
                pipe, inputs, after_step, settings, [row.seed for _, row in flat], width=size[0], height=size[1]
            )
        withheld = getattr(output, "nsfw_content_detected", None) or [False] * len(flat)
        found: list[Sampled | Exception] = []
        for number, (own, place) in enumerate(zip(rows, places, strict=True)):
            try:
                images = pictures(pipe, output.images[place], own)
            except PipelineError as error:
                found.append(broken.get(number, error))
                continue
            found.append(broken.get(number, Sampled(own, images, images, list(withheld[place]))))
        return found

    def _call(
        self,
        pipe: Any,
        request: Request,
        settings: Settings,
        canvas: Canvas | None,
        size: tuple[int, int],
        batch: list[Row],
        watch: Watch,
    ) -> Any:
        seeds = [row.seed for row in batch]
        image, mask, _ = request.pictures
        keep: Callback | None = None
        if image and mask and canvas and not inpaints(pipe):
            keep = keeping(pipe, canvas.cut(image), canvas.cut(mask), seeds)

        def after_step(pipe: Any, step: int, timestep: Any, tensors: dict[str, Any]) -> dict[str, Any]:
            kept = (keep(pipe, step, timestep, tensors) if keep else None) or {}
            watch.after_step(pipe, step, kept.get("latents", tensors["latents"]))
            return kept

        # One text for pictures of one prompt; pictures of a list of prompts bring their own.
        single = isinstance(request.prompt, str)
        prompt = batch[0].prompt if single else tuple(row.prompt for row in batch)
        return _run(
            pipe,
            self._texts_and_identity(request, prompt, settings),
            after_step,
            settings,
            seeds,
            num_images_per_prompt=len(batch) if single else 1,
            **call_arguments(pipe, request, canvas, settings, size, len(batch)),
        )

    def _texts_and_identity(
        self, request: Request, prompt: str | tuple[str, ...], settings: Settings
    ) -> dict[str, Any]:
        if not request.base_alone:
            return self._inputs.of(request, prompt, settings)
        prompts = [prompt] if isinstance(prompt, str) else list(prompt)
        negative = [settings.negative_prompt] * len(prompts) if settings.negative_prompt else None
        return {"prompt": prompts, "negative_prompt": negative, "guidance_scale": settings.guidance_scale}

    def _texts(self, request: Request, batch: Sequence[Row]) -> tuple[FacialText, ...]:
        """What the text encoders will read, for those who watch."""
        if request.on_step is None or request.identity is None or request.base_alone:
            return ()
        if request.regions is not None:  # there each prompt is read alone, too, and once for each person
            return tuple(FacialText.of(row.prompt) for row in batch)
        prompts = list(dict.fromkeys(row.prompt for row in batch))
        texts = dict(zip(prompts, self._facial_texts(request, prompts), strict=True))
        return tuple(texts[row.prompt] for row in batch)

    def _facial_texts(self, request: Request, prompts: Sequence[str], *, warn: bool = False) -> list[FacialText]:
        return self.adapter.facial_texts(
            request.people,
            prompts,
            person_prompts=request.person_prompts,
            face_text=request.face_text,
            parts=request.parts,
            warn=warn,
        )

    def _pipe_for(self, request: Request) -> Any:
        """The pipeline that takes what is given; it shares all networks with `pipe`."""
        image, mask, control = request.pictures
        if not image and not control:
            return self.pipe
        from diffusers import AutoPipelineForImage2Image, AutoPipelineForInpainting, AutoPipelineForText2Image

        kind = AutoPipelineForText2Image
        if image:
            kind = AutoPipelineForInpainting if mask and inpaints(self.pipe) else AutoPipelineForImage2Image
        more = {"controlnet": self._controlnet()} if control and self._controlnet else {}
        if more and request.regions is not None:
            self.adapter.add_controlnet(more["controlnet"])
        return self._prepare(kind.from_pipe(self.pipe, **more))


def _widened(width: int, request: Request, settings: Settings) -> int:
    """What becomes of a width for all people of a request, who stand side by side."""
    return width + round(width * settings.person_width * max(len(request.people) - 1, 0) / 8) * 8


def _only(value: float | list[float]) -> float:
    """What is said of a single person, as one or as a list of one."""
    return value[0] if isinstance(value, list) else value


def _run(
    pipe: Any, inputs: Mapping[str, Any], after_step: Callback, settings: Settings, seeds: Sequence[int], **more: Any
) -> Any:
    """A call of the pipeline.

    Args:
        pipe: of the kind that the arguments are for.
        inputs: texts and guidance; of the adapter's, whose callback goes on to `after_step`, or for the base alone.
        after_step: called after each step.
        settings: how many steps.
        seeds: of the pictures.
        more: arguments of the pipeline's own.
    """
    merge = inputs.get("callback_on_step_end")
    with guided_steps(pipe, settings) as guided:

        def done(pipe: Any, step: int, timestep: Any, tensors: dict[str, Any]) -> dict[str, Any] | None:
            guided.after_step(step)
            return after_step(pipe, step, timestep, tensors)

        step: Any = replace(merge, callback=done) if merge else done
        watched = {
            "callback_on_step_end": step,
            "callback_on_step_end_tensor_inputs": step.tensor_inputs if merge else ["latents"],
        }
        return pipe(
            **{**inputs, **watched, **more},
            num_inference_steps=settings.steps,
            output_type="pt",  # Pillow's pictures do not tell black from what is no number
            # on the CPU, so that a seed means the same picture on every device
            generator=[torch.Generator("cpu").manual_seed(seed) for seed in seeds],
        )


@contextmanager
def _hooks_freed(pipe: Any) -> Iterator[None]:
    """What the pipeline does at the end of a call, also where the call is broken off: networks go off the GPU."""
    try:
        yield
    except BaseException:
        pipe.maybe_free_model_hooks()
        raise
