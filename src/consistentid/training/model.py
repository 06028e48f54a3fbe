"""The adapter on its base as one module whose forward pass gives the losses of a batch."""

from __future__ import annotations

import math
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from diffusers import DDPMScheduler
from diffusers.training_utils import compute_snr
from torch import Tensor, nn

from consistentid.adapter import layouts, store
from consistentid.adapter.adapter import ConsistentID
from consistentid.adapter.attention import AttentionRecorder
from consistentid.adapter.long_text import LongText
from consistentid.adapter.regions import Regions
from consistentid.adapter.spec import AdapterSpec
from consistentid.adapter.text import in_rows
from consistentid.errors import CheckpointError, InputError
from consistentid.faces.onnx import onnx_providers
from consistentid.faces.recognition import OnnxRecogniser
from consistentid.files.weights import fingerprint, same_network
from consistentid.presets.loading import check_width, loading, network_name
from consistentid.training.attention import plain_attention
from consistentid.training.config import PRESETS_OWN, TrainConfig
from consistentid.training.examples import Batch
from consistentid.training.frozen import FrozenNetworks
from consistentid.training.identity import IdentityLoss
from consistentid.training.losses import clean_latents, localisation_over_layers, min_snr_weight, noise_loss, token_loss
from consistentid.training.sampled import Denoise, sampled
from consistentid.training.scenes import SceneLoss
from consistentid.training.state import misfits


class AdapterOnBase(nn.Module):
    """A `ConsistentID` attached to the base of a training; `forward` is the only way through its parameters.

    Args:
        config: what is trained, and the losses.
        frozen: its pipeline gets the adapter.

    Attributes:
        cid: the adapter.
        recorder: sees the attention of the facial words.
        progress: share of the steps that are done, 0 to 1; the trainer sets it.
        names: parameter of this module -> its name on disk, "adapter.<name>" or "unet.<name>".
        frozen_adapter: adapter weights that do not learn, by name.

    Raises:
        InputError, CheckpointError: sizes or initial weights that do not fit.
    """

    def __init__(self, config: TrainConfig, frozen: FrozenNetworks) -> None:
        super().__init__()
        pipe = frozen.pipe
        self.config, self.pipe = config, pipe
        torch.manual_seed(config.schedule.seed)
        self.unet_config: str = pipe.unet.to_json_string()  # attaching changes it
        plain_attention(pipe.unet, pipe.device)  # attaching keeps the kind
        base = dict(pipe.unet.named_parameters())
        self.cid = initial_adapter(config, frozen)
        self._teacher = (
            distilled(config.distilled_recogniser, self.cid, frozen) if config.distilled_recogniser else None
        )
        self.cid.scale = config.id_scale
        self.unet, self.image_projection = pipe.unet, self.cid.image_projection
        self.facial_encoder = self.cid.facial_encoder
        self._groups = self.cid.parameter_groups() | {"unet": list(base.values())}
        for parameters in self._groups.values():
            for parameter in parameters:
                parameter.requires_grad_(False)
        for name in config.trained:
            for parameter in self._groups[name]:
                parameter.data = parameter.data.float()
                parameter.requires_grad_(True)
        if config.gradient_checkpointing:
            pipe.unet.enable_gradient_checkpointing()
        stored = {x.data_ptr(): f"adapter.{name}" for name, x in self.cid.state_dict().items()}
        stored |= {x.data_ptr(): f"unet.{name}" for name, x in base.items()}
        self.names = {name: stored[x.data_ptr()] for name, x in self.named_parameters() if x.requires_grad}
        learnt = set(self.names.values())
        self.frozen_adapter = {
            name: x.clone() for name, x in self.cid.state_dict().items() if f"adapter.{name}" not in learnt
        }
        self.noise_schedule = DDPMScheduler.from_config(pipe.scheduler.config)
        self.recorder = AttentionRecorder(pipe.unet, config.localisation_blocks)
        self._base_alone = False
        self.progress = 0.0
        self._identity = IdentityLoss(frozen.differentiable_recognisers, pipe.vae) if config.identity_weight else None
        self._detector = frozen.detector if config.identity_weight and config.sampled_share else None
        self._scene = SceneLoss(frozen.latent_reader) if frozen.latent_reader else None

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Losses (B,) of each sample: "loss" and what it is made of.

        These are "noise", and where the recipe has them "localisation", "identity" and "scene"; or, where the base
        learns alone, "base" in the place of the first three; or, where pictures are the model's own, "sampled_identity"
        and "sampled_scene" with "localisation"; or, of several people, "company_noise" and "company_identity"; or,
        where one recogniser is exchanged for another, "tokens".
        """
        config = self.config
        if self._teacher is not None:
            with torch.no_grad():
                taught = self._teacher(batch.wanted[:, 0, 0], batch.face[:, 0])
            error = token_loss(self.cid.id_tokens(batch.embedding[:, 0], batch.face[:, 0]), taught)
            return {"loss": error, "tokens": error}
        self.switch(base_alone=batch.base)
        text, tokens = self._read(batch)
        size = batch.latents.shape[-2], batch.latents.shape[-1]
        conditions = self._conditions(batch, tokens)

        def denoise(noisy: Tensor, t: Tensor) -> Tensor:
            prediction: Tensor = self.unet(noisy, t, encoder_hidden_states=text, added_cond_kwargs=conditions).sample
            return prediction

        t = self._timesteps(batch)
        noisy = self._noisy(batch, t, denoise)
        localised = bool(config.localisation_weight) and not batch.base and batch.people == 1
        maps = self.recorder.watch(batch.positions, size) if localised else {}
        prediction = denoise(noisy, t).float()
        kind = self.noise_schedule.config.prediction_type
        of = "sampled_" if batch.sampled else "company_" if batch.people > 1 else ""
        loss = prediction.new_zeros(len(prediction))
        losses: dict[str, Tensor] = {}
        if not batch.sampled:  # the picture that was to be drawn is no longer in what the model sampled
            loss = self._noise(prediction, t, batch)
            losses["base" if batch.base else f"{of}noise"] = loss
        identity = self._identity if not batch.base and self.progress >= config.identity_start else None
        if self._scene or identity:
            signal = self.noise_schedule.alphas_cumprod.to(t.device)[t]
            clean = clean_latents(noisy.float(), prediction, signal, kind)
            # Predicted noise is divided by the signal, and so would be the gradient of what is asked of these latents.
            share = signal.sqrt() if kind == "epsilon" else 1.0
        if self._scene and batch.asked is not None and batch.people == 1:  # no reader knows pictures of several
            losses[f"{of}scene"] = self._scene(clean, batch.asked)
            loss = loss + config.scene_weight * share * losses[f"{of}scene"]
        if batch.base:
            return {"loss": loss, **losses}
        if localised:
            losses["localisation"] = localisation_over_layers(list(maps.values()), batch.masks, batch.used)
            loss = loss + config.localisation_weight * losses["localisation"]
        if identity:
            losses[f"{of}identity"] = identity(
                clean, batch.landmarks, batch.wanted, self._detector if batch.sampled else None
            )
            loss = loss + config.identity_weight * share * losses[f"{of}identity"]
        return {"loss": loss, **losses}

    def _read(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """What the UNet reads: text (B, T, D), of several people rows of a `LongText`, and ID tokens (B, 1, T, D)."""
        if batch.base:
            shape = (len(batch.text), 1, self.cid.spec.tokens, batch.text.shape[-1])
            return batch.text[:, 0], torch.zeros(shape, device=batch.text.device)
        text = self.cid.fuse(batch.text.flatten(0, 1), batch.parts, batch.token_mask, batch.part_mask)
        text = in_rows(text, (len(batch.text), batch.text.shape[1]))
        tokens = self.cid.id_tokens(batch.embedding.flatten(0, 1), batch.face.flatten(0, 1))
        tokens = in_rows(tokens, (len(text), batch.people))
        if batch.people == 1:
            return text[:, 0], tokens
        edges = [number / batch.people for number in range(batch.people + 1)]
        strips = Regions.read([(left, 0.0, right, 1.0) for left, right in pairwise(edges)])
        scales = torch.ones(len(text), batch.people)
        # kept: the layers know it for as long as it lives, and a backward pass may run them again
        self._layout = self.cid.reader.add(LongText(text.shape[2], self.cid.spec.tokens, strips, scales))
        return self._layout.join(text, tokens), tokens[:, :1]

    def _timesteps(self, batch: Batch) -> Tensor:
        share = batch.time**self.config.timestep_power
        if batch.sampled:
            share = share * self.config.sampled_from
        return (float(self.noise_schedule.config.num_train_timesteps) * share).long()

    def _noisy(self, batch: Batch, t: Tensor, denoise: Denoise) -> Tensor:
        """The latents at these timesteps: those of the pictures with noise, or sampled from them with more noise."""
        if not batch.sampled:
            noisy: Tensor = self.noise_schedule.add_noise(batch.latents, batch.noise, t)
            return noisy
        first = math.ceil(self.noise_schedule.config.num_train_timesteps * self.config.sampled_from) - 1
        begin = torch.full_like(t, first)
        noisy = self.noise_schedule.add_noise(batch.latents, batch.noise, begin)
        return sampled(denoise, self.noise_schedule, noisy, begin, t, self.config.sampled_steps)

    def _noise(self, prediction: Tensor, t: Tensor, batch: Batch) -> Tensor:
        """The noise loss (B,)."""
        kind = self.noise_schedule.config.prediction_type
        target = (
            self.noise_schedule.get_velocity(batch.latents, batch.noise, t) if kind == "v_prediction" else batch.noise
        )
        noise = noise_loss(prediction, target, batch.weight)
        if self.config.min_snr:
            noise = noise * min_snr_weight(compute_snr(self.noise_schedule, t), self.config.min_snr, kind)
        return noise

    def switch(self, *, base_alone: bool) -> None:
        """Switch the adapter off or on; it stays so until the next call, for backward passes may run layers again."""
        self.recorder.stop()
        if base_alone == self._base_alone:
            return
        self._base_alone = base_alone
        learning = [(x, x.requires_grad) for parameters in self._groups.values() for x in parameters]
        self.cid.scale = 0.0 if base_alone else self.config.id_scale
        if self.cid.spec.lora_rank:
            if base_alone:
                self.unet.disable_lora()
            else:
                self.unet.enable_lora()
        for parameter, learns in learning:  # which PEFT has changed
            parameter.requires_grad_(learns)

    def _conditions(self, batch: Batch, tokens: Tensor) -> dict[str, Any]:
        conditions: dict[str, Any] = {"image_embeds": [tokens]}
        if batch.pooled is not None:
            size = [side * self.pipe.vae_scale_factor for side in batch.latents.shape[-2:]]
            sizes = torch.tensor([*size, 0, 0, *size], device=tokens.device, dtype=tokens.dtype)
            conditions |= {"text_embeds": batch.pooled, "time_ids": sizes.expand(len(tokens), -1)}
        return conditions


def distilled(recogniser: Path, cid: ConsistentID, frozen: FrozenNetworks) -> nn.Module:
    """The image projection as it is, frozen, whose tokens of one recogniser are taught; the adapter is the other's now.

    Args:
        recogniser: ONNX file of the one that the adapter knows.
        cid: the adapter with its initial weights.
        frozen: its preset names the other one.

    Raises:
        InputError: the adapter knows another recogniser than that, or already the preset's.
        CheckpointError: the preset's recogniser makes embeddings of another width.
    """
    known, told = cid.spec.networks.get("recogniser", ""), fingerprint(recogniser)
    if known and not same_network(known, told):
        raise InputError(
            f"distilled_recogniser={recogniser} is {told}, and the initial weights know {known}; name that"
        )
    new = frozen.provenance["recogniser"]
    if same_network(told, new):
        raise InputError(
            f"distilled_recogniser={recogniser} is the preset's own recogniser, {new}; name the one to be moved to with"
            " networks.recogniser, or a preset that has it"
        )
    network = frozen.preset.recogniser
    with loading("recogniser", network):
        width = OnnxRecogniser(network.fetch(), onnx_providers("cpu")).width
        check_width("recogniser", network, "embeddings", width, cid.spec.id_dim)
    cid.spec = replace(cid.spec, networks={**cid.spec.networks, "recogniser": new})
    return deepcopy(cid.image_projection).float().requires_grad_(False)


def initial_adapter(config: TrainConfig, frozen: FrozenNetworks) -> ConsistentID:
    """The adapter to train, attached to the frozen pipeline.

    Raises:
        InputError: the recipe's sizes are none, or contradict those of its initial weights.
        CheckpointError: initial weights that are missing or broken.
    """
    source = str(frozen.preset.adapter.fetch()) if config.init == PRESETS_OWN else config.init
    found = _initial_weights(source) if source else {}
    if source and "facial_encoder" in {name.partition(".")[0] for name in found}:
        cid = ConsistentID.from_pretrained(*_located(source))
        cid.attach(frozen.pipe)
        kept = cid.spec.to_dict()
        if wrong := [name for name, value in config.spec.items() if kept.get(name) != value]:
            raise InputError(f"the recipe's spec has another {', '.join(wrong)} than {config.init}; leave it out")
        return cid
    widths = {
        "clip_dim": frozen.image_encoder.config.hidden_size,
        "text_dim": frozen.pipe.unet.config.cross_attention_dim,
    }
    try:
        spec = AdapterSpec.from_dict(widths | {"networks": frozen.provenance} | config.spec)
    except CheckpointError as error:
        raise InputError(f"the recipe's spec: {error}") from None
    cid = ConsistentID(spec)
    cid.attach(frozen.pipe)
    _copy(found, cid.state_dict(), str(source))
    return cid


def initial_name(config: TrainConfig, frozen: FrozenNetworks) -> str | None:
    """Name and hash of the weights that it starts from; None for fresh ones."""
    if config.init is None:
        return None
    if config.init == PRESETS_OWN:
        return network_name(frozen.preset.adapter)
    return fingerprint(store.locate(*_located(config.init)))


def _initial_weights(source: str) -> Mapping[str, Tensor]:
    path = store.locate(*_located(source))
    state, _ = store.read_state(path)
    if "ip_adapter" in state:  # an IP-Adapter-FaceID-Plus: the same layers, numbered alike, and no facial encoder
        state = {"image_proj": state["image_proj"], "adapter_modules": state["ip_adapter"]}
    return layouts.to_ours(state, str(path))[0]


def _located(source: str) -> tuple[str, str | None]:
    """Source and weight name of a path, a hub id, or owner/name/file of the hub."""
    parts = source.split("/")
    if len(parts) < 3 or source.startswith((".", "/", "~")) or Path(source).exists():
        return source, None
    return "/".join(parts[:2]), "/".join(parts[2:])


@torch.no_grad()
def _copy(found: Mapping[str, Tensor], into: Mapping[str, Tensor], source: str) -> None:
    if wrong := misfits(found, {name: x for name, x in into.items() if name in found}):
        raise InputError(
            f"{len(wrong)} weights of {source} do not fit the recipe's spec and base, the first is {wrong[0]}"
            f" {tuple(found[wrong[0]].shape)}; correct spec, or choose other initial weights"
        )
    for name, tensor in found.items():
        into[name].copy_(tensor)
