"""`ConsistentID`: identity for any diffusers pipeline of the Stable Diffusion and SDXL families, without forking one.

ID tokens go through diffusers' own IP-Adapter processors, the LoRA through PEFT, the fused facial text through
`prompt_embeds`, and the delayed merge through `callback_on_step_end`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Self

import torch
from torch import Tensor, nn

from consistentid.adapter import encoding, injection
from consistentid.adapter.long_text import LongText, Reader, check_width
from consistentid.adapter.merge import Callback, DelayedMerge, Swap
from consistentid.adapter.people import check_together, gather
from consistentid.adapter.prompt import FacialText, check_length
from consistentid.adapter.regions import Region, Regions
from consistentid.adapter.spec import AdapterSpec
from consistentid.adapter.text import negatives_of, spans_of, warn_if_cut, write
from consistentid.adapter.weights import AdapterWeights
from consistentid.errors import IncompatibleIdentityError, InputError, PipelineError
from consistentid.files.devices import ordinary_tensors

if TYPE_CHECKING:
    from consistentid.adapter.identity import Identity


class ConsistentID(AdapterWeights):
    """Identity conditioning as an adapter: attach it to a pipeline, and give the pipeline's call what `inputs` returns.

    ```python
    cid = ConsistentID.from_pretrained("JackAILab/ConsistentID", weight_name="ConsistentID-v1.bin")
    with cid.attached(pipe):
        image = pipe(**cid.inputs(who, "a man in a forest"), num_inference_steps=50).images[0]
    ```

    While attached the pipeline needs these inputs; a plain call works again after `detach`.

    Attributes:
        spec: sizes and habits of the weights.
        image_projection: makes the ID tokens.
        facial_encoder: fuses the pictures of facial parts into the words that name them.
        reader: says at each step of the attached UNet what is in the rows of a text of several people.
    """

    def __init__(self, spec: AdapterSpec) -> None:
        super().__init__(spec)
        self._scale = 1.0
        self._pipe: Any = None
        self._attached_layers: dict[str, nn.Module] = {}
        self._processors: list[Any] = []
        self._folded = False
        self._fused_loras: list[list[str]] = []
        self.reader = Reader()
        self._undo = ExitStack()

    @property
    def scale(self) -> float:
        """Strength of the ID tokens, 1 as trained, 0 without them; the LoRA's is set by `pipe.set_adapters`."""
        return self._scale

    @scale.setter
    def scale(self, value: float) -> None:
        if not math.isfinite(value):
            raise InputError(f"scale must be a finite number, got {value}; 1 is as trained, 0 is off")
        self._scale = float(value)
        self._restore_scale()

    def _restore_scale(self) -> None:
        if self._pipe is not None:
            injection.set_scale(self._attached_layers, self._scale)

    def _check_scale(self) -> None:
        injection.check_scale(self._attached_layers, self._scale)

    # ---------------------------------------------------------------------------------------------- attach and detach

    @ordinary_tensors()
    def attach(self, pipe: Any, *, fold: bool = False) -> None:
        """Adds the ID layers and the LoRA to `pipe.unet`; everything else of the pipeline stays as it is.

        Args:
            pipe: a pipeline of the Stable Diffusion 1.x or SDXL family.
            fold: add the LoRA to the UNet's weights, for sampling at the plain pipeline's speed. It is then as it was
                when attached: training does not reach it, `pipe.set_adapters` does not weigh it. Other LoRAs work as
                usual. The plain weights are kept on the CPU.

        Raises:
            PipelineError: the pipeline cannot take the adapter, or one of the two is already taken.
        """
        if self._pipe is not None:
            raise PipelineError("this ConsistentID is already attached; call detach() first")
        encoding.check_pipeline(pipe)
        unet = pipe.unet
        if self._guessed_habits:  # a file that says nothing of its habits is of the same family as the pipeline
            self._use_spec(self.spec.as_released("sdxl" if encoding.is_xl(pipe) else "sd15"))
        layers = injection.attention_layers(unet)
        injection.check_sizes(unet, layers, self.spec, self._layers)
        parameters = self._layers or injection.fresh_layers(layers, self.spec)
        device, dtype = unet.device, unet.dtype
        for parameter in parameters.values():
            parameter.data = parameter.data.to(device, dtype)
        self.to(device)
        with ExitStack() as undo:
            injection.forbid_saving(pipe, undo)
            injection.add_id_layers(unet, layers, parameters, self.spec.tokens, self.reader, undo)
            if getattr(pipe, "controlnet", None) is not None:
                injection.add_reader(pipe.controlnet, self.reader, undo)
            if fold:
                injection.fold_lora(layers, parameters, undo)
            elif self.spec.lora_rank:
                injection.add_lora(unet, layers, parameters, undo)
            self._undo = undo.pop_all()
        self._pipe, self._attached_layers, self._layers, self._folded = pipe, layers, parameters, fold
        self._processors, self._fused_loras = injection.id_processors(layers), injection.fused_loras(layers)
        self.scale = self._scale

    @ordinary_tensors()
    def detach(self) -> None:
        """Restores the pipeline exactly; trained values stay in this object. Does nothing when not attached.

        Raises:
            PipelineError: the weights cannot be restored as they are now; the message says what to call first.
        """
        if self._pipe is None:
            return
        self._check_fused_loras()
        if self._folded and self._pipe.unet.device.type == "meta":
            raise PipelineError("the UNet's weights are offloaded; call pipe.remove_all_hooks() before detach()")
        self._undo.close()
        self._pipe, self._attached_layers = None, {}

    @contextmanager
    def attached(self, pipe: Any, *, fold: bool = False) -> Iterator[Self]:
        """`with cid.attached(pipe): ...`: attached within the block, detached after it whatever happens."""
        self.attach(pipe, fold=fold)
        try:
            yield self
        finally:
            self.detach()

    @contextmanager
    def suspended(self) -> Iterator[Any]:
        """`with cid.suspended() as pipe: ...`: the pipeline without the adapter, which is attached again after it.

        Raises:
            PipelineError: not attached, or the weights cannot be restored as they are now; see `detach`.
        """
        pipe, folded = self.check_attached(), self._folded
        self.detach()
        try:
            yield pipe
        finally:
            self.attach(pipe, fold=folded)

    # ------------------------------------------------------------------------------------------------------- inference

    @ordinary_tensors()
    def inputs(
        self,
        identity: Identity | Sequence[Identity],
        prompt: str | Sequence[str],
        negative_prompt: str | Sequence[str] | None = None,
        *,
        regions: Regions | Sequence[Region | None] | None = None,
        person_prompts: str | Sequence[str] | None = None,
        person_scales: float | Sequence[float] | None = None,
        face_text: str | Sequence[str | None] | None = None,
        parts: Mapping[str, str] | Sequence[Mapping[str, str] | None] | None = None,
        part_scales: Mapping[str, float] | Sequence[Mapping[str, float] | None] | None = None,
        merge_at: float | Sequence[float] = 0.6,
        base_ratio: float | Sequence[float] = 0.0,
        regions_end: float = 1.0,
        guidance_scale: float = 5.0,
        callback: Callback | None = None,
        warn: bool = True,
    ) -> dict[str, Any]:
        """Keyword arguments for the attached pipeline's call: `pipe(**cid.inputs(who, "a man in a forest"))`.

        What is given of a person (words, strength, merge, ratio) goes for every person, or is a list with one for each.

        Args:
            identity: the person; or with `regions` all who are in every picture, each in their region; or as many as
                prompts, each in the picture of their prompt. Several people with one prompt and without regions are
                only told apart by their ID tokens, which blends them.
            prompt: one prompt or several, each fitting the text encoder.
            negative_prompt: one, or as many as prompts.
            regions: where each person is, in their order: boxes (left, top, right, bottom) in fractions of the picture,
                or masks of the picture's shape, black outside. There the picture follows the prompt with this person's
                words and face, elsewhere the prompt alone.
            person_prompts: words about one person alone, such as "a woman in a red dress", read behind the prompt.
            person_scales: strength of one person's ID tokens, a factor on `scale`.
            face_text: facial sentence; by default the identity's own, completed, or else a fixed one about the visible
                parts. Words of it that name a part
                (face, eyes, ears, nose, mouth) carry that part's look. What does not fit behind the prompt is cut
                with a `UserWarning`.
            parts: descriptions of single parts for the fixed sentence, such as ``{"eyes": "green eyes"}``.
            part_scales: how much of the pictures of single parts is fused into their words, such as ``{"eyes": 0.5}``:
                0 = the word alone counts, 1 = as trained, at most 2.
            merge_at: fraction of the steps after which the facial text is fused: 0 = from the start, 1 = never.
            base_ratio: share of the prompt alone within the regions, 0 to 1.
            regions_end: fraction of the steps after which every position follows the prompt alone; the ID tokens
                stay in their regions.
            guidance_scale: as in the pipeline's call, returned with the rest so that both agree whether guidance is on.
            callback: your own `callback_on_step_end`, called after ours with "latents", or with the tensors its
                `tensor_inputs` name.
            warn: tell what is doubtful of the people's networks, and what is left out of facial sentences.

        Returns:
            `prompt_embeds`, `ip_adapter_image_embeds`, `callback_on_step_end` with its tensor inputs and
            `guidance_scale`; under guidance also `negative_prompt_embeds`; for SDXL the pooled ones.

        Raises:
            PipelineError: not attached, or the pipeline has lost or switched off the adapter since.
            PromptTooLongError: a prompt alone does not fit the text encoder.
            IncompatibleIdentityError: the identity comes from other networks.
            InputError: an argument is out of range, or they do not go together.
        """
        pipe = self.check_attached()
        identities = _people(identity)
        prompts = [prompt] if isinstance(prompt, str) else list(prompt or ())
        negatives = negatives_of(negative_prompt, len(prompts))
        people = gather(
            identities,
            person_prompts=person_prompts,
            face_text=face_text,
            parts=parts,
            part_scales=part_scales,
            merge_at=merge_at,
            person_scales=person_scales,
            base_ratio=base_ratio,
        )
        apart = regions is not None or len(people) == len(prompts) > 1
        check_together(people, prompts, apart, regions_end, guidance_scale)
        where = None if regions is None else Regions.read(regions, len(people))
        for one in identities:
            self.check_identity(one, warn=warn)
        guided = encoding.is_guided(pipe, guidance_scale)
        count, limit = encoding.token_counter(pipe), encoding.context_length(pipe)
        for text in (negatives or []) if guided else []:
            check_length(text, count, limit, "negative_prompt")
        spans = spans_of(pipe, self.spec, prompts, people, in_regions=where is not None, apart=apart)
        if warn:
            for row in spans:
                for span in row:
                    warn_if_cut(span.text, limit)

        texts, tokens = write(self, pipe, spans, identities, negatives, guided, regions_end)
        layout = None
        if apart:
            check_width(texts.before.shape[-1], len(prompts))
            scales = torch.tensor([person.scale for person in people])
            scales = scales.expand(len(prompts), -1) if where else scales[:, None]
            ratios = [person.base_ratio for person in people]
            layout = self.reader.add(LongText(texts.before.shape[2], self.spec.tokens, where, scales, ratios))
        # the same people in every row, or one in each
        held = [x.expand(len(prompts), *x.shape) if where else x[:, None] for x in tokens]
        placeless = layout.placeless if layout else 0
        points = texts.points
        rows = [_joined(texts.at(point), held[-1], layout) for point in (0.0, *points)]
        pooled = [texts.pooled_at(point, placeless) for point in (0.0, *points)]
        negative = None if texts.negative is None else _joined(texts.negative, held[0], layout)
        swaps = [Swap(point, (rows[i], rows[i + 1]), _pair(pooled[i], pooled[i + 1])) for i, point in enumerate(points)]
        step = replace(
            DelayedMerge.of(swaps, negative, callback, layout), check=self._check_scale, restore=self._restore_scale
        )
        embeds = {
            "prompt_embeds": rows[0],
            "negative_prompt_embeds": negative,
            "pooled_prompt_embeds": pooled[0],
            "negative_pooled_prompt_embeds": texts.negative_pooled,
        }
        return {name: value for name, value in embeds.items() if value is not None} | {
            # of a long text, which holds them itself, only what the pipeline needs to see that there are some
            "ip_adapter_image_embeds": [tokens[:, :1] if layout else tokens],
            "callback_on_step_end": step,
            "callback_on_step_end_tensor_inputs": step.tensor_inputs,
            "guidance_scale": guidance_scale,
        }

    def facial_texts(
        self,
        identity: Identity | Sequence[Identity],
        prompts: Sequence[str],
        *,
        person_prompts: str | Sequence[str] | None = None,
        face_text: str | Sequence[str | None] | None = None,
        parts: Mapping[str, str] | Sequence[Mapping[str, str] | None] | None = None,
        warn: bool = False,
    ) -> list[FacialText]:
        """What the text encoders read of each prompt, and which words of it are fused; `inputs` says what is what.

        Raises:
            PipelineError: not attached.
            PromptTooLongError, InputError: see `inputs`.
        """
        pipe = self.check_attached()
        people = gather(_people(identity), person_prompts=person_prompts, face_text=face_text, parts=parts)
        texts = [row[0].text for row in spans_of(pipe, self.spec, prompts, people, in_regions=False, apart=False)]
        for text in texts if warn else ():
            warn_if_cut(text, encoding.context_length(pipe))
        return texts

    def add_controlnet(self, controlnet: Any) -> None:
        """Lets a ControlNet that the attached pipeline does not have read the texts of several people; see `attach`.

        Its text has no place in the picture, so it gets the prompt alone.
        """
        self.check_attached()
        injection.add_reader(controlnet, self.reader, self._undo)

    def check_attached(self) -> Any:
        """The attached pipeline, if it still has the adapter.

        Raises:
            PipelineError: not attached, or the pipeline has lost or switched off the adapter; it says what to type.
        """
        if self._pipe is None:
            raise PipelineError("the adapter is not attached to a pipeline; call attach(pipe) first")
        unet = self._pipe.unet
        injection.check_id_layers(unet, self._attached_layers, self._processors)
        if self.spec.lora_rank and not self._folded:
            injection.check_lora(unet, self._attached_layers)
        self._check_fused_loras()
        self._check_scale()
        return self._pipe

    def _check_fused_loras(self) -> None:
        if injection.fused_loras(self._attached_layers) != self._fused_loras:
            raise PipelineError(
                "LoRAs were fused or unfused since attach(), so detach() could not restore the weights: undo that"
                " (pipe.unfuse_lora()), then detach(), fuse the others, and attach(pipe, fold=True) to fold ours in"
            )

    def check_identity(self, identity: Identity, *, warn: bool = True) -> None:
        """Make sure that an identity comes from the networks that this adapter was trained with.

        Args:
            identity: any.
            warn: tell what is doubtful, as a `UserWarning`.

        Raises:
            IncompatibleIdentityError: its networks, the crops of its parts or its sizes are others; the message names
                both.
        """
        expected = dict(self.spec.networks)
        if "part_layout" in identity.provenance:
            expected["part_layout"] = self.spec.part_layout
        identity.check_networks(expected, warn=warn)
        sizes = identity.embedding.shape[0], identity.face_features.shape[1]
        if sizes != (self.spec.id_dim, self.spec.clip_dim):
            raise IncompatibleIdentityError(
                f"the identity has an embedding of {sizes[0]} and image features of {sizes[1]}, the adapter expects"
                f" {self.spec.id_dim} and {self.spec.clip_dim}; identify the photo again with this adapter's networks"
            )


def _people(identity: Identity | Sequence[Identity]) -> list[Identity]:
    return list(identity) if isinstance(identity, Sequence) else [identity]


def _joined(spans: Tensor, tokens: Tensor, layout: LongText | None) -> Tensor:
    """Rows of text of spans (B, S, T, D): long ones, or ordinary ones of a single span."""
    return layout.join(spans, tokens) if layout else spans[:, 0]


def _pair(before: Tensor | None, after: Tensor | None) -> tuple[Tensor, Tensor] | None:
    return None if before is None or after is None else (before, after)
