"""`ConsistentID`: identity for any diffusers pipeline of the Stable Diffusion and SDXL families, without forking one.

ID tokens go through diffusers' own IP-Adapter processors, the LoRA through PEFT, the fused facial text through
`prompt_embeds`, and the delayed merge through `callback_on_step_end`.
"""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import torch
from torch import Tensor, nn

from consistentid.adapter import encoding, injection, store
from consistentid.adapter.merge import Callback, DelayedMerge
from consistentid.adapter.nn.facial_encoder import FacialEncoder
from consistentid.adapter.nn.image_projection import ImageProjection
from consistentid.adapter.prompt import FacialText, check_length, completed, compose, facial_sentence
from consistentid.adapter.spec import AdapterSpec
from consistentid.errors import IncompatibleIdentityError, InputError, PipelineError
from consistentid.faces.parts import PARTS
from consistentid.files.devices import moved

if TYPE_CHECKING:
    from consistentid.adapter.identity import Identity


class ConsistentID:
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
    """

    def __init__(self, spec: AdapterSpec) -> None:
        """Fresh weights for training; the layers in the UNet get theirs when first attached.

        Args:
            spec: sizes and habits.
        """
        self.spec = spec
        self.image_projection: ImageProjection = store.build_image_projection(spec)
        self.facial_encoder: FacialEncoder = store.build_facial_encoder(spec)
        # The UNet's layers borrow these very Parameters while attached, so training and saving see one set of values.
        self._layers: dict[str, nn.Parameter] = {}
        self._scale = 1.0
        self._guessed_habits = False
        self._pipe: Any = None
        self._attached_layers: dict[str, nn.Module] = {}
        self._processors: list[Any] = []
        self._folded = False
        self._fused_loras: list[list[str]] = []
        self._undo = ExitStack()

    @classmethod
    def from_pretrained(
        cls,
        source: str | os.PathLike[str],
        weight_name: str | None = None,
        *,
        revision: str | None = None,
        spec: AdapterSpec | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> Self:
        """Loads a released checkpoint, a training dump or what `save_pretrained` wrote.

        Args:
            source: hub id, folder or file.
            weight_name: file within the repository or folder; not needed when it is clear.
            revision: branch, tag or commit on the hub.
            spec: sizes and habits to use instead of those found in the file or known of the released weights.
            dtype: of all weights.

        Raises:
            CheckpointError: nothing there, truncated, or of another layout; wrong entries are listed by name.
        """
        path = store.locate(source, weight_name, revision)
        loaded = store.read(path, spec)
        with torch.device("meta"):
            self = cls(loaded.spec)
        state: dict[str, dict[str, Tensor]] = {"image_projection": {}, "facial_encoder": {}, "attention": {}}
        for key, tensor in loaded.tensors.items():
            module, _, name = key.partition(".")
            state[module][name] = tensor.to(dtype)
        self.image_projection.load_state_dict(state["image_projection"], assign=True)
        self.facial_encoder.load_state_dict(state["facial_encoder"], assign=True)
        self._layers = {name: nn.Parameter(tensor) for name, tensor in state["attention"].items()}
        self._guessed_habits = loaded.guessed
        return self

    def save_pretrained(self, folder: str | os.PathLike[str], dtype: torch.dtype | None = None) -> None:
        """Writes `config.json` and `model.safetensors`, which `from_pretrained` reads; trained values included.

        Args:
            folder: made if it is not there.
            dtype: of the stored weights, as they are by default.

        Raises:
            PipelineError: a fresh adapter that was never attached has no layers to save.
            InputError: the folder cannot be written.
        """
        if not self._layers:
            raise PipelineError("nothing to save: the layers in the UNet are made by attach(pipe), call it first")
        store.write_folder(
            Path(folder), self.spec, {name: tensor.to(dtype) for name, tensor in self.state_dict().items()}
        )

    def state_dict(self) -> dict[str, Tensor]:
        """All weights by name, those that live in the UNet included, as `checkpoint` lays them out."""
        modules = {"image_projection": self.image_projection, "facial_encoder": self.facial_encoder}
        state = {f"{m}.{name}": tensor for m, module in modules.items() for name, tensor in module.state_dict().items()}
        return state | {f"attention.{name}": parameter.detach() for name, parameter in self._layers.items()}

    def parameter_groups(self) -> dict[str, list[nn.Parameter]]:
        """Every trainable parameter, as "image_projection", "facial_encoder", "ip_layers" and "lora".

        The last two are empty for a fresh adapter until it is attached; they stay the same objects from then on.
        """
        return {
            "image_projection": list(self.image_projection.parameters()),
            "facial_encoder": list(self.facial_encoder.parameters()),
            "ip_layers": [x for name, x in self._layers.items() if "_ip." in name],
            "lora": [x for name, x in self._layers.items() if "_lora." in name],
        }

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> Self:
        """Moves `image_projection` and `facial_encoder`; the layers in the UNet go where the UNet goes.

        `inputs` needs no move: it computes where the pipeline does.
        """
        for module in (self.image_projection, self.facial_encoder):
            module.to(device=device, dtype=dtype)
        return self

    @property
    def scale(self) -> float:
        """Strength of the ID tokens, 1 as trained, 0 without them; the LoRA's is set by `pipe.set_adapters`."""
        return self._scale

    @scale.setter
    def scale(self, value: float) -> None:
        if not math.isfinite(value):
            raise InputError(f"scale must be a finite number, got {value}; 1 is as trained, 0 is off")
        self._scale = float(value)
        if self._pipe is not None:
            injection.set_scale(self._attached_layers, self._scale)

    # ---------------------------------------------------------------------------------------------- attach and detach

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
            injection.add_id_layers(unet, layers, parameters, self.spec.tokens, undo)
            if fold:
                injection.fold_lora(layers, parameters, undo)
            elif self.spec.lora_rank:
                injection.add_lora(unet, layers, parameters, undo)
            self._undo = undo.pop_all()
        self._pipe, self._attached_layers, self._layers, self._folded = pipe, layers, parameters, fold
        self._processors, self._fused_loras = injection.id_processors(layers), injection.fused_loras(layers)
        self.scale = self._scale

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

    def _use_spec(self, spec: AdapterSpec) -> None:
        self.spec = spec
        self.image_projection.shortcut = spec.shortcut

    # --------------------------------------------------------------------------------- building blocks, differentiable

    def id_tokens(self, embedding: Tensor, face_features: Tensor) -> Tensor:
        """ID tokens (B, tokens, D) of embeddings (B, id_dim) and whole-face features (B, L, clip_dim).

        Zero embeddings with the features of an all-zero image give the unconditional tokens.
        """
        weight = self.image_projection.norm.weight
        tokens: Tensor = self.image_projection(embedding.to(weight), face_features.to(weight))
        return tokens

    def fuse(self, text: Tensor, parts: Tensor, token_mask: Tensor, part_mask: Tensor) -> Tensor:
        """Text (B, T, D) with parts (B, N, L, clip_dim) fused in where `token_mask` (B, T) is true; never in place.

        `part_mask` (B, N) says which parts to use, in the order of their words: see `arrange`.
        """
        weight = self.facial_encoder.fuse_module.layer_norm.weight
        masks = (mask.to(weight.device) for mask in (token_mask, part_mask))
        fused: Tensor = self.facial_encoder(text.to(weight.device), parts.to(weight), *masks)
        return fused.to(text.device)

    @staticmethod
    def arrange(texts: Sequence[FacialText], part_features: Tensor, context: int = 77) -> tuple[Tensor, Tensor, Tensor]:
        """What `fuse` needs for a batch of composed texts.

        Args:
            texts: B texts of `prompt.compose`.
            part_features: (B, N, L, clip_dim) in order of `PARTS`.
            context: length T of the text embedding.

        Returns:
            parts (B, N, L, clip_dim) in the order of the words, token_mask (B, T) and part_mask (B, N).
        """
        batch, number = part_features.shape[:2]
        order = torch.zeros(batch, number, dtype=torch.long)
        token_mask = torch.zeros(batch, context, dtype=torch.bool)
        part_mask = torch.zeros(batch, number, dtype=torch.bool)
        for row, text in enumerate(texts):
            order[row, : len(text.pictures)] = torch.tensor([PARTS.index(x) for x in text.pictures], dtype=torch.long)
            token_mask[row, list(text.positions)] = True
            part_mask[row, : len(text.positions)] = True
        rows = torch.arange(batch).unsqueeze(1)
        return part_features[rows, order], token_mask, part_mask

    # ------------------------------------------------------------------------------------------------------- inference

    def inputs(
        self,
        identity: Identity | Sequence[Identity],
        prompt: str | Sequence[str],
        negative_prompt: str | Sequence[str] | None = None,
        *,
        face_text: str | None = None,
        parts: Mapping[str, str] | None = None,
        merge_at: float = 0.6,
        guidance_scale: float = 5.0,
        callback: Callback | None = None,
    ) -> dict[str, Any]:
        """Keyword arguments for the attached pipeline's call: `pipe(**cid.inputs(who, "a man in a forest"))`.

        Args:
            identity: the person, or the people who are to be in every picture.
            prompt: one prompt or several, each fitting the text encoder.
            negative_prompt: one, or as many as prompts.
            face_text: facial sentence; by default the identity's own, completed, or else a fixed one about the visible
                parts. Words of it that name a part
                (face, eyes, ears, nose, mouth) carry that part's look. What does not fit behind the prompt is cut
                with a `UserWarning`.
            parts: descriptions of single parts for the fixed sentence, such as ``{"eyes": "green eyes"}``.
            merge_at: fraction of the steps after which the facial text is fused: 0 = from the start, 1 = never.
            guidance_scale: as in the pipeline's call, returned with the rest so that both agree whether guidance is on.
            callback: your own `callback_on_step_end`, called after ours with "latents", or with the tensors its
                `tensor_inputs` name.

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
        people = list(identity) if isinstance(identity, Sequence) else [identity]
        prompts = [prompt] if isinstance(prompt, str) else list(prompt or ())
        negatives = _negatives(negative_prompt, len(prompts))
        _check_arguments(people, prompts, face_text, parts, merge_at, guidance_scale)
        for person in people:
            self._check_identity(person)
        guided = encoding.is_guided(pipe, guidance_scale)
        texts = self.facial_texts(people, prompts, face_text=face_text, parts=parts)
        count, limit = encoding.token_counter(pipe), encoding.context_length(pipe)
        for text in (negatives or []) if guided else []:
            check_length(text, count, limit, "negative_prompt")
        for composed in texts:
            _warn_if_cut(composed, limit)

        with torch.no_grad():
            plain = encoding.encode(pipe, [x.plain for x in texts], negatives=negatives, guided=guided)
            full = plain
            if any(x.full != x.plain or x.marked != x.full for x in texts):
                full = encoding.encode(pipe, [x.full for x in texts], seconds=[x.marked for x in texts])
            person, negative = people[0], plain.negative
            # the pipeline may have been moved since attach(), or keep its networks on the CPU while they are idle
            with moved(pipe._execution_device, self.image_projection, self.facial_encoder):
                fused = self._fuse_features(full.text, person.part_features, texts)
                if negative is not None and self.spec.fuse_negative:
                    blank = person.blank_features.expand_as(person.part_features)
                    negative = self._fuse_features(negative, blank, texts)
                tokens = self._people_tokens(people, guided).to(full.text)

        rows = {
            "prompt_embeds": (plain.text, fused, negative),
            "add_text_embeds": (plain.pooled, full.pooled, plain.negative_pooled),
        }
        step = DelayedMerge.of(rows, merge_at, callback)
        embeds = {
            "prompt_embeds": plain.text if merge_at > 0 else fused,
            "negative_prompt_embeds": negative,
            "pooled_prompt_embeds": plain.pooled if merge_at > 0 else full.pooled,
            "negative_pooled_prompt_embeds": plain.negative_pooled,
        }
        return {name: value for name, value in embeds.items() if value is not None} | {
            "ip_adapter_image_embeds": [tokens],
            "callback_on_step_end": step,
            "callback_on_step_end_tensor_inputs": step.tensor_inputs,
            "guidance_scale": guidance_scale,
        }

    def facial_texts(
        self,
        identity: Identity | Sequence[Identity],
        prompts: Sequence[str],
        *,
        face_text: str | None = None,
        parts: Mapping[str, str] | None = None,
    ) -> list[FacialText]:
        """What the text encoders read of each prompt, and which words of it are fused; `inputs` says what is what.

        Raises:
            PipelineError: not attached.
            PromptTooLongError, InputError: see `inputs`.
        """
        pipe = self.check_attached()
        people = list(identity) if isinstance(identity, Sequence) else [identity]
        # words cannot say whose eyes they are, so several people are told apart by their ID tokens alone
        visible = people[0].visible_parts if len(people) == 1 else ()
        sentence = face_text
        if sentence is None and visible and people[0].face_text and not parts:
            sentence = completed(people[0].face_text, visible, self.spec)
        elif sentence is None:
            sentence = facial_sentence(self.spec, visible, parts)
        count, limit = encoding.token_counter(pipe), encoding.context_length(pipe)
        return [compose(prompt, sentence, visible, self.spec, count, limit) for prompt in prompts]

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
        return self._pipe

    def _check_fused_loras(self) -> None:
        if injection.fused_loras(self._attached_layers) != self._fused_loras:
            raise PipelineError(
                "LoRAs were fused or unfused since attach(), so detach() could not restore the weights: undo that"
                " (pipe.unfuse_lora()), then detach(), fuse the others, and attach(pipe, fold=True) to fold ours in"
            )

    def _check_identity(self, identity: Identity) -> None:
        expected = dict(self.spec.networks)
        if "part_layout" in identity.provenance:
            expected["part_layout"] = self.spec.part_layout
        identity.check_networks(expected)
        sizes = identity.embedding.shape[0], identity.face_features.shape[1]
        if sizes != (self.spec.id_dim, self.spec.clip_dim):
            raise IncompatibleIdentityError(
                f"the identity has an embedding of {sizes[0]} and image features of {sizes[1]}, the adapter expects"
                f" {self.spec.id_dim} and {self.spec.clip_dim}; identify the photo again with this adapter's networks"
            )

    def _fuse_features(self, text: Tensor, part_features: Tensor, texts: Sequence[FacialText]) -> Tensor:
        features = part_features.expand(len(texts), *part_features.shape)
        return self.fuse(text, *self.arrange(texts, features, text.shape[1]))

    def _people_tokens(self, people: Sequence[Identity], guided: bool) -> Tensor:
        """ID tokens (1, P, tokens, D) of P people; under guidance (2, ...), the unconditional ones first.

        Pipelines repeat them for every picture of the batch.
        """
        embedding = torch.stack([x.embedding for x in people])
        tokens = self.id_tokens(embedding, torch.stack([x.face_features for x in people]))
        if not guided:
            return tokens.unsqueeze(0)
        blank = torch.stack([x.blank_features for x in people])
        return torch.stack([self.id_tokens(torch.zeros_like(embedding), blank), tokens])


def _negatives(negative_prompt: str | Sequence[str] | None, prompts: int) -> list[str] | None:
    if negative_prompt is None:
        return None
    negatives = [negative_prompt] * prompts if isinstance(negative_prompt, str) else list(negative_prompt)
    if len(negatives) != prompts:
        raise InputError(f"{len(negatives)} negative prompts for {prompts} prompts; give one, or one for each prompt")
    return negatives


def _check_arguments(
    people: Sequence[Identity],
    prompts: Sequence[str],
    face_text: str | None,
    parts: Mapping[str, str] | None,
    merge_at: float,
    guidance_scale: float,
) -> None:
    if not people or not prompts:
        raise InputError("give at least one identity and one prompt")
    if len(people) > 1 and len(prompts) > 1:
        raise InputError(
            f"{len(prompts)} prompts with {len(people)} identities: all identities of a call are in every picture;"
            " call once for each identity, or give one prompt"
        )
    if len(people) > 1 and parts:
        raise InputError("parts describes one person; with several identities leave it out")
    if face_text is not None and parts:
        raise InputError("give either face_text, the whole facial sentence, or parts, descriptions of single parts")
    if not 0 <= merge_at <= 1:
        raise InputError(f"merge_at must be between 0 (from the start) and 1 (never), got {merge_at}")
    if not math.isfinite(guidance_scale):
        raise InputError(f"guidance_scale must be a finite number, got {guidance_scale}")


def _warn_if_cut(text: FacialText, limit: int) -> None:
    if text.cut:
        warnings.warn(
            f"the facial sentence was cut to fit the text encoder's {limit} tokens, left out: {text.cut!r};"
            " a shorter prompt leaves more room",
            stacklevel=3,
        )
    if text.unseen:
        warnings.warn(
            f"left out of the facial sentence, because no picture shows it: {', '.join(text.unseen)}", stacklevel=3
        )
