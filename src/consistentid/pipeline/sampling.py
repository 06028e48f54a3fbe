"""`Sampler`: the one place that calls a diffusers pipeline, for whatever a `Request` asks."""

from __future__ import annotations

import inspect
import itertools
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from PIL import Image

from consistentid.adapter.adapter import ConsistentID
from consistentid.adapter.merge import Callback
from consistentid.adapter.prompt import FacialText
from consistentid.adapter.regions import Regions
from consistentid.errors import ArgumentError, CancelledError, InputError, PipelineError
from consistentid.pipeline.canvas import Canvas
from consistentid.pipeline.checks import OF_EACH
from consistentid.pipeline.remarks import remarks
from consistentid.pipeline.request import Request, Row, Step
from consistentid.presets.settings import Settings

_REMEMBERED = 32  # identities and texts whose inputs are kept; each takes less than a megabyte


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
        self._inputs: OrderedDict[tuple[Any, ...], dict[str, Any]] = OrderedDict()
        self._made_by: list[tuple[torch.nn.Parameter, int]] = []

    @property
    def native_size(self) -> tuple[int, int]:
        """(width, height) in pixels that the base was made for."""
        size = self.pipe.unet.config.sample_size
        height, width = (size, size) if isinstance(size, int) else size
        return width * self.pipe.vae_scale_factor, height * self.pipe.vae_scale_factor

    def canvas(self, request: Request, settings: Settings) -> tuple[Canvas | None, tuple[int, int]]:
        """What of given pictures is sampled, if there are any, and the (width, height) that is sampled."""
        native = self.native_size
        size = (settings.width or native[0], settings.height or native[1])
        canvas = request.canvas(size)
        return canvas, canvas.size if canvas else size

    def remarks(self, request: Request, defaults: Settings, *, taught: bool) -> Iterator[str]:
        """What of a request will hardly come out as it is meant; see `remarks`."""
        canvas, size = self.canvas(request, request.settings(defaults))
        return remarks(request, self.pipe.tokenizer, self.native_size, None if canvas else size, taught=taught)

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
        _check_base(self.pipe, request)
        pipe = self._pipe_for(request)
        canvas, size = self.canvas(request, settings)
        request = replace(request, regions=_regions_in(request, canvas, size))
        rows = request.rows()
        watch = _Watch(request, len(rows), pipe)
        windows: list[Image.Image] = []
        withheld: list[bool] = []
        alone: AbstractContextManager[Any] = self.adapter.suspended() if request.base_alone else nullcontext()
        with alone, _hooks_freed(pipe):
            self.adapter.scale = settings.scale
            for start in range(0, len(rows), settings.batch_size):
                batch = rows[start : start + settings.batch_size]
                watch.begin(range(start, start + len(batch)), self._texts(request, batch), size)
                output = self._call(pipe, request, settings, canvas, batch, watch)
                windows += _pictures(pipe, output.images, batch)
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
        _check_base(self.pipe, request)
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
        pipe, native = self.pipe, self.native_size
        settings = requests[0].settings(defaults)
        size = settings.width or native[0], settings.height or native[1]
        rows = [request.rows() for request in requests]
        flat = [(request, row) for request, own in zip(requests, rows, strict=True) for row in own]
        watches = [_Watch(request, len(own), pipe) for request, own in zip(requests, rows, strict=True)]
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
            negatives = [request.settings(defaults).negative_prompt for request, _ in flat]
            each: dict[str, Any] = {name: [request.of_each(name)[0] for request, _ in flat] for name in OF_EACH}
            each["merge_at"] = [_only(request.merges(request.settings(defaults))) for request, _ in flat]
            inputs = self.adapter.inputs(
                [request.people[0] for request, _ in flat],
                [row.prompt for _, row in flat],
                negatives if any(negatives) else None,
                **each,
                guidance_scale=settings.guidance_scale,
                warn=False,  # `check` has told each
            )
            merge = replace(inputs["callback_on_step_end"], callback=after_step)
            output = pipe(
                **inputs | {"callback_on_step_end": merge, "callback_on_step_end_tensor_inputs": merge.tensor_inputs},
                width=size[0],
                height=size[1],
                num_inference_steps=settings.steps,
                output_type="pt",
                generator=[torch.Generator("cpu").manual_seed(row.seed) for _, row in flat],
            )
        withheld = getattr(output, "nsfw_content_detected", None) or [False] * len(flat)
        found: list[Sampled | Exception] = []
        for number, (own, place) in enumerate(zip(rows, places, strict=True)):
            try:
                images = _pictures(pipe, output.images[place], own)
            except PipelineError as error:
                found.append(broken.get(number, error))
                continue
            found.append(broken.get(number, Sampled(own, images, images, list(withheld[place]))))
        return found

    def _call(
        self, pipe: Any, request: Request, settings: Settings, canvas: Canvas | None, batch: list[Row], watch: _Watch
    ) -> Any:
        seeds = [row.seed for row in batch]
        image, mask, _ = request.pictures
        keep: Callback | None = None
        if image and mask and canvas and not _inpaints(pipe):
            keep = _keeping(pipe, canvas.cut(image), canvas.cut(mask), seeds)

        def after_step(pipe: Any, step: int, timestep: Any, tensors: dict[str, Any]) -> dict[str, Any]:
            kept = (keep(pipe, step, timestep, tensors) if keep else None) or {}
            watch.after_step(pipe, step, kept.get("latents", tensors["latents"]))
            return kept

        # One text for pictures of one prompt; pictures of a list of prompts bring their own.
        single = isinstance(request.prompt, str)
        prompt = batch[0].prompt if single else tuple(row.prompt for row in batch)
        return pipe(
            **self._texts_and_identity(request, prompt, settings, after_step),
            **_call_arguments(pipe, request, canvas, settings, len(batch)),
            num_inference_steps=settings.steps,
            output_type="pt",  # Pillow's pictures do not tell black from what is no number
            num_images_per_prompt=len(batch) if single else 1,
            # On the CPU, so that a seed means the same picture on every device.
            generator=[torch.Generator("cpu").manual_seed(seed) for seed in seeds],
        )

    def _texts_and_identity(
        self, request: Request, prompt: str | tuple[str, ...], settings: Settings, after_step: Callback
    ) -> dict[str, Any]:
        if request.base_alone:
            prompts = [prompt] if isinstance(prompt, str) else list(prompt)
            negative = [settings.negative_prompt] * len(prompts) if settings.negative_prompt else None
            return {
                "prompt": prompts,
                "negative_prompt": negative,
                "guidance_scale": settings.guidance_scale,
                "callback_on_step_end": after_step,
                "callback_on_step_end_tensor_inputs": ["latents"],
            }
        inputs = self._inputs_of(request, prompt, settings)
        step = replace(inputs["callback_on_step_end"], callback=after_step)
        return inputs | {"callback_on_step_end": step, "callback_on_step_end_tensor_inputs": step.tensor_inputs}

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
            kind = AutoPipelineForInpainting if mask and _inpaints(self.pipe) else AutoPipelineForImage2Image
        more = {"controlnet": self._controlnet()} if control and self._controlnet else {}
        if more and request.regions is not None:
            self.adapter.add_controlnet(more["controlnet"])
        return self._prepare(kind.from_pipe(self.pipe, **more))

    def _inputs_of(self, request: Request, prompt: str | tuple[str, ...], settings: Settings) -> dict[str, Any]:
        """`ConsistentID.inputs`, made once for an identity and a text as long as the networks stay as they are."""
        self.adapter.check_attached()
        texts = [network for name, network in self.pipe.components.items() if name.startswith("text_encoder")]
        makers = [self.adapter.image_projection, self.adapter.facial_encoder, *filter(None, texts)]
        made_by = [(x, x._version) for network in makers for x in network.parameters()]
        # a LoRA on a text encoder is weighed by numbers that leave no trace in its parameters
        unsure = any(getattr(network, "peft_config", None) for network in texts)
        if unsure or not _same_weights(made_by, self._made_by):
            self._inputs.clear()
            self._made_by = made_by
        arguments: dict[str, Any] = {
            "regions": request.regions,
            "person_prompts": request.person_prompts,
            "person_scales": request.person_scales,
            "face_text": request.face_text,
            "parts": request.parts,
            "part_scales": request.part_scales,
            "merge_at": request.merges(settings),
            "base_ratio": request.base_ratio,
            "regions_end": request.regions_end,
            "guidance_scale": settings.guidance_scale,
        }
        negative = settings.negative_prompt or None
        key = (request.people, prompt, negative, *map(_hashable, arguments.values()))
        if key not in self._inputs:
            self._inputs[key] = self.adapter.inputs(request.people, prompt, negative, **arguments)
        self._inputs.move_to_end(key)
        while len(self._inputs) > _REMEMBERED:
            self._inputs.popitem(last=False)
        return self._inputs[key]


def _only(value: float | list[float]) -> float:
    """What is said of a single person, as one or as a list of one."""
    return value[0] if isinstance(value, list) else value


def _hashable(value: Any) -> Any:
    if isinstance(value, Regions):
        return value.key
    if isinstance(value, Mapping):
        return tuple(value.items())
    return tuple(map(_hashable, value)) if isinstance(value, list | tuple) else value


def _regions_in(request: Request, canvas: Canvas | None, size: tuple[int, int]) -> Regions | None:
    """The regions of a request as parts of what is sampled."""
    if (regions := request.places) is None:
        return None
    if canvas is None:
        regions.check_shape(size[1], size[0])
        return regions
    image, _, control = request.pictures
    picture = image or control
    return regions.within(canvas.box, picture.size) if picture else regions


def _same_weights(a: Sequence[tuple[Any, int]], b: Sequence[tuple[Any, int]]) -> bool:
    """Whether these are the same parameters, and none was trained or loaded into since."""
    return len(a) == len(b) and all(x is y and m == n for (x, m), (y, n) in zip(a, b, strict=True))


# ------------------------------------------------------------------------------------------------------------- stages


class _Watch:
    """Tells a request's callbacks how far it is, and ends it when it was cancelled."""

    def __init__(self, request: Request, count: int, pipe: Any) -> None:
        self._request, self._count, self._pipe = request, count, pipe
        self._began = time.monotonic()
        self._step = Step("encoding", 0, 0)
        self._finished = 0  # pictures of earlier batches

    def begin(self, pictures: range, texts: tuple[FacialText, ...], size: tuple[int, int]) -> None:
        """The texts of a batch are known."""
        self._finished = pictures.start
        self._tell(
            replace(self._step, stage="encoding", pictures=pictures, texts=texts, size=size, latents=None, step=-1)
        )

    def after_step(self, pipe: Any, step: int, latents: torch.Tensor) -> None:
        """A step of the batch is done."""
        each = len(self._step.pictures)
        done = self._finished * pipe.num_timesteps + (step + 1) * each
        total = self._count * pipe.num_timesteps
        left = (time.monotonic() - self._began) / done * (total - done)
        told = replace(self._step, stage="sampling", done=done, total=total, seconds_left=left, step=step)
        self._tell(replace(told, latents=latents, _decode=partial(_decoded, pipe)))
        if self._request.progress:
            self._request.progress(done, total)

    def _tell(self, step: Step) -> None:
        self._step = replace(step, latents=None, _decode=None)
        report(self._request, step)


def report(request: Request, step: Step) -> None:
    """Tell a request's `on_step` how far it is.

    Raises:
        CancelledError: the request was cancelled.
    """
    if request.cancelled and request.cancelled():
        raise CancelledError(f"the request was cancelled after {step.done} of {step.total} steps")
    if request.on_step:
        request.on_step(step)


@torch.no_grad()
def _decoded(pipe: Any, latents: torch.Tensor) -> list[Image.Image]:
    """Pictures of latents, as the pipeline itself decodes them at the end."""
    vae = pipe.vae
    upcast = vae.dtype == torch.float16 and bool(getattr(vae.config, "force_upcast", False))
    if upcast:
        vae.to(torch.float32)  # half precision overflows in this one
    try:
        scaled = latents.detach().to(vae.dtype) / vae.config.scaling_factor
        mean, std = (getattr(vae.config, name, None) for name in ("latents_mean", "latents_std"))
        if mean is not None and std is not None:
            mean, std = (torch.tensor(x).view(1, -1, 1, 1).to(scaled) for x in (mean, std))
            scaled = scaled * std + mean
        pixels = vae.decode(scaled, return_dict=False)[0]
    finally:
        if upcast:
            vae.to(torch.float16)
    images: list[Image.Image] = pipe.image_processor.postprocess(pixels.float(), output_type="pil")
    return images


def _pictures(pipe: Any, pixels: torch.Tensor, batch: Sequence[Row]) -> list[Image.Image]:
    """RGB pictures of (B, 3, H, W) pixels in [0, 1].

    Raises:
        PipelineError: some are no numbers.
    """
    finite = pixels.flatten(1).isfinite().all(dim=1).tolist()
    if broken := [str(row.seed) for row, whole in zip(batch, finite, strict=True) if not whole]:
        raise PipelineError(
            f"the pictures of seed {', '.join(broken)} hold values that are not finite: the networks overflow at"
            f" {pipe.unet.dtype} in the UNet or {pipe.vae.dtype} in the VAE, or their weights or a LoRA's strength are"
            " out of range; try --dtype float32, or leave out LoRAs"
        )
    processor = pipe.image_processor
    images: list[Image.Image] = processor.numpy_to_pil(processor.pt_to_numpy(pixels))
    return images


@contextmanager
def _hooks_freed(pipe: Any) -> Iterator[None]:
    """What the pipeline does at the end of a call, also where the call is broken off: networks go off the GPU."""
    try:
        yield
    except BaseException:
        pipe.maybe_free_model_hooks()
        raise


# ----------------------------------------------------------------------------------------------------- given pictures


def _call_arguments(
    pipe: Any, request: Request, canvas: Canvas | None, settings: Settings, batch: int
) -> dict[str, Any]:
    """What the pipeline of `_pipe_for` wants besides the text."""
    if canvas is None:
        return {"width": settings.width or None, "height": settings.height or None}
    image, mask, control = request.pictures
    known = inspect.signature(type(pipe).__call__).parameters
    arguments: dict[str, Any] = dict(zip(("width", "height"), canvas.size, strict=True)) if "width" in known else {}
    if image:
        # one for each picture, so that each is encoded with noise of its own seed
        arguments |= {"image": [canvas.cut(image)] * batch, "strength": settings.strength}
    if mask and "mask_image" in known:
        arguments["mask_image"] = canvas.cut(mask)
    if control:
        arguments["control_image" if image else "image"] = canvas.cut(control)
        arguments["controlnet_conditioning_scale"] = float(settings.control_scale)
    return arguments


def _check_base(pipe: Any, request: Request) -> None:
    """Makes sure that a base for inpainting, whose UNet also reads a mask and what is around it, gets them.

    Raises:
        InputError: it does not.
    """
    if pipe.unet.config.in_channels != pipe.vae.config.latent_channels and request.mask is None:
        raise InputError(
            "this base is made for inpainting: it needs a picture and a mask of what is drawn anew (--image and --mask)"
            "; for anything else choose another base"
        )


def _inpaints(pipe: Any) -> bool:
    """Whether diffusers' inpainting knows latents like these."""
    return pipe.unet.config.in_channels in (4, 9)


@torch.no_grad()
def _keeping(pipe: Any, image: Image.Image, mask: Image.Image, seeds: Sequence[int]) -> Callback:
    """A callback that makes of img2img what `_inpaints` lacks: unmasked latents follow the picture, noised as the rest.

    Args:
        pipe: an img2img pipeline.
        image, mask: of the size that is sampled.
        seeds: of the pictures of a batch.
    """
    vae = pipe.vae
    pixels = pipe.image_processor.preprocess(image).to(pipe._execution_device, vae.dtype)
    start = vae.encode(pixels).latent_dist.mode() * vae.config.scaling_factor
    noise = [torch.randn(start.shape, generator=torch.Generator("cpu").manual_seed(seed)) for seed in seeds]
    noises = torch.cat(noise).to(start)
    white = torch.from_numpy(np.asarray(mask) >= 128).to(start)[None, None]
    free = torch.nn.functional.interpolate(white, start.shape[-2:]).bool()

    def keep(pipe: Any, step: int, _timestep: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        left = pipe.num_timesteps - step - 1
        known = start.expand_as(noises)
        if left:
            known = pipe.scheduler.add_noise(known, noises, pipe.scheduler.timesteps[-left:][:1])
        return {"latents": torch.where(free, tensors["latents"], known.to(tensors["latents"]))}

    return keep
