"""The base: a text-to-image UNet over the latents of the drawn pictures, and the pipeline folder around it."""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from diffusers import DDIMScheduler, DDPMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from consistentid.drawn.autoencoder import ConvAutoencoderKL
from consistentid.drawn.pools import Pool, captions, copied, group_captions, shown_on
from consistentid.errors import InputError, first_line
from consistentid.faces.differentiable import DifferentiableOnnx
from consistentid.files.writing import replacing_folder
from consistentid.presets.loading import TEXT_PROJECTION
from consistentid.training.drawn.latents import Latents, open_latents
from consistentid.training.drawn.loop import Losses, train
from consistentid.training.drawn.recipe import Mixture, Recipe, arguments
from consistentid.training.drawn.text import tokenize
from consistentid.training.examples import FACE_LABELS
from consistentid.training.losses import clean_latents
from consistentid.training.scenes import Asked, SceneLoss, told
from consistentid.training.schedule import batched
from consistentid.training.state import misfits, widened


def train_unet(recipe: Recipe, out: Path, device: torch.device) -> None:
    """Train and save ``out/base``, a diffusers pipeline folder; reports the held-out noise loss."""
    section = recipe.section("unet")
    mixture, held_out = recipe.mixture("train"), recipe.pool("validation")
    vae = ConvAutoencoderKL.from_pretrained(out / "vae").float().to(device).eval()
    text_encoder = CLIPTextModelWithProjection.from_pretrained(out / "text_encoder").float().to(device)
    tokenizer = CLIPTokenizer.from_pretrained(out / "tokenizer")
    latents = [open_latents(pool, vae, out, device) for pool in mixture.pools]
    held_latents = open_latents(held_out, vae, out, device)
    torch.manual_seed(section.schedule.seed)
    options = section.options
    unet = UNet2DConditionModel(
        in_channels=held_latents.shape[1], out_channels=held_latents.shape[1], sample_size=held_latents.shape[-1],
        cross_attention_dim=text_encoder.config.hidden_size,
        **arguments(UNet2DConditionModel, section.network, f"{section.where}: network"),
    ).to(device)  # fmt: skip
    network = TextToImage(unet, text_encoder, learns_words=options["train_text_encoder"])
    if options["init"]:
        network.begin_with(options["init"])
    if recipe.compile:
        unet.compile()
    scheduler = arguments(DDPMScheduler, options["scheduler"], f"{section.where}: options.scheduler")
    noise_schedule = DDPMScheduler(**scheduler)
    power = options["timestep_power"]
    scene = SceneLoss(DifferentiableOnnx(out / "latent_reader.onnx").to(device)) if options["scene_weight"] else None

    def noise_error(z: Tensor, tokens: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        """The squared error at each position, (B, 1, h, w), the latents that the prediction points to, and how far the
        embeddings of the texts are from where the CLIP pair has them, (B,)."""
        noise = torch.randn(z.shape, generator=generator, device=device)
        t = skewed_timesteps(len(z), noise_schedule.config.num_train_timesteps, power, generator)
        noisy = noise_schedule.add_noise(z, noise, t)
        prediction, moved = network(noisy, t, tokens.to(device))
        error = prediction - noise_schedule.get_velocity(z, noise, t)
        signal = noise_schedule.alphas_cumprod.to(device)[t]
        return error.square().mean(1, keepdim=True), clean_latents(noisy, prediction, signal, "v_prediction"), moved

    def loss(batch: tuple[Tensor, Tensor, Tensor, Asked | None], generator: torch.Generator) -> Losses:
        z, tokens, face, asked = batch
        error, clean, moved = noise_error(z.to(device).float(), tokens, generator)
        losses = {"loss": (error * (1 + options["face_weight"] * face.to(device))).mean(), "noise": error.mean()}
        if scene and asked:
            losses["scene"] = scene(clean, asked.to(device)).mean()
            losses["loss"] = losses["loss"] + options["scene_weight"] * losses["scene"]
        if network.learns_words:
            losses["moved"] = moved.mean()
            losses["loss"] = losses["loss"] + losses["moved"]
        return losses

    @torch.no_grad()
    def report() -> dict[str, float]:
        generator = torch.Generator(device).manual_seed(0)
        losses = []
        for part in batched(min(len(held_out), 512), 64):
            texts = [f"{c.image}, {c.face}" for c in captions(held_out, np.arange(part.start, part.stop), seed=1)]
            z = held_latents[part].to(device).float()
            losses.append(float(noise_error(z, tokenize(tokenizer, texts), generator)[0].mean()))
        return {"held_out_loss": float(np.mean(losses))}

    schedule, precision = section.schedule, recipe.precision
    prepared = partial(_batch, mixture, latents, tokenizer, options["text_dropout"], bool(scene))
    if train(
        "unet", network, loss, schedule, len(mixture.portraits), out, device=device, prepared=prepared,
        workers=recipe.ahead, report=report, precision=precision,
    ):  # fmt: skip
        save_base(vae, text_encoder, tokenizer, unet, noise_schedule, out / "base")


class TextToImage(nn.Module):
    """UNet and text encoder, of which the second may learn along.

    Words that seldom decide which caption is a picture's are near one another where only that contrast has taught them;
    the UNet learns to tell them sooner where they may move apart. The embeddings of whole texts stay where the image
    encoder knows them: how far they moved is a loss.

    Args:
        unet: learns.
        text_encoder: the CLIP pair's.
        learns_words: whether it learns, too.
    """

    def __init__(
        self, unet: UNet2DConditionModel, text_encoder: CLIPTextModelWithProjection, *, learns_words: bool
    ) -> None:
        super().__init__()
        self.unet, self.text_encoder, self.learns_words = unet, text_encoder, learns_words
        text_encoder.text_projection.requires_grad_(False)
        text_encoder.text_model.requires_grad_(learns_words)
        if learns_words:  # in a list: no part of this network
            self._known = [deepcopy(text_encoder).requires_grad_(False).eval()]

    def forward(self, noisy: Tensor, t: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Velocity (B, C, h, w) of noisy latents, and one minus the cosine of the texts' (B, T) embeddings, (B,)."""
        with torch.set_grad_enabled(self.learns_words and torch.is_grad_enabled()):
            told = self.text_encoder(tokens)
        prediction: Tensor = self.unet(noisy, t, told.last_hidden_state).sample.float()
        if not self.learns_words:
            return prediction, prediction.new_zeros(len(tokens))
        with torch.no_grad():
            known = self._known[0](tokens).text_embeds
        return prediction, 1 - F.cosine_similarity(told.text_embeds.float(), known.float())

    def begin_with(self, base: Path) -> None:
        """Take over the weights of both from the folder of another base.

        That may know the first channels of the latents only; of the others its UNet sees and predicts nothing then.

        Raises:
            InputError: there are none, or they are those of another architecture.
        """
        where = f"options.init of the UNet: {base}"
        try:
            unet = UNet2DConditionModel.from_pretrained(base / "unet").state_dict()
            words = load_file(base / "text_encoder" / "model.safetensors")
        except (OSError, ValueError, SafetensorError) as error:
            raise InputError(f"{where} holds no base ({first_line(error)})") from None
        own = self.unet.state_dict()
        unet |= {
            name: widened(unet[name], own[name]) for name in ("conv_in.weight", "conv_out.weight", "conv_out.bias")
        }
        words = {name.removeprefix("text_model."): x for name, x in words.items()}  # of transformers before 5
        for network, found in ((self.unet, unet), (self.text_encoder.text_model, words)):
            if wrong := misfits(found, network.state_dict()):
                raise InputError(f"{where} has another {wrong[0]} than this recipe's base")
            network.load_state_dict(found)


def _batch(
    mixture: Mixture,
    latents: Sequence[Latents],
    tokenizer: CLIPTokenizer,
    dropped: float,
    scenes: bool,
    rows: NDArray[np.int64],
    seed: int,
) -> tuple[Tensor, Tensor, Tensor, Asked | None]:
    """Latents (B, C, h, w), the tokens of their texts (B, 77), of which some are left out, `face_shares`, and with
    ``scenes`` what the scene loss is given beside latents."""
    number, pool, rows = mixture.batch(rows, seed)
    rng = np.random.default_rng(seed)
    texts = ["" if rng.random() < dropped else text for text in texts_of(pool, rows, seed, rng)]
    z = latents[number][rows]
    asked = None
    if scenes:
        weight = told(len(rows), own=False) * torch.tensor([[float(bool(text))] for text in texts])
        asked = Asked(torch.from_numpy(shown_on(pool, rows)), weight)
    return z, tokenize(tokenizer, texts), face_shares(copied(pool.labels, rows), z), asked


def face_shares(labels: Tensor, like: Tensor) -> Tensor:
    """How much of each position is face, of labels (B, H, W): (B, 1, h, w) of the size of ``like``."""
    face = torch.isin(labels, torch.tensor(FACE_LABELS, dtype=labels.dtype, device=labels.device))
    return F.adaptive_avg_pool2d(face[:, None].float(), (like.shape[-2], like.shape[-1]))


def texts_of(pool: Pool, rows: NDArray[np.int64], seed: int, rng: np.random.Generator) -> list[str]:
    """A text for each row: the caption, mostly with the facial sentence; of several people the caption alone."""
    if pool.spec.together > 1:
        return [words.image for words in group_captions(pool, rows, seed)]
    both = captions(pool, rows, seed)
    return [c.image if rng.random() < 0.4 else f"{c.image}, {c.face}" for c in both]


def skewed_timesteps(count: int, steps: int, power: float, generator: torch.Generator) -> torch.Tensor:
    """Random timesteps (count,) in [0, steps); a power above 1 favours early ones.

    The schedule was made for 64 x 64 latents. Small ones hold less redundancy, so their structure is decided at less
    noise, and uniform timesteps would mostly be spent where nothing but the background can be seen.
    """
    u = torch.rand(count, generator=generator, device=generator.device)
    return (steps * u**power).long()


def save_base(
    vae: ConvAutoencoderKL,
    text_encoder: CLIPTextModelWithProjection,
    tokenizer: CLIPTokenizer,
    unet: UNet2DConditionModel,
    noise_schedule: DDPMScheduler,
    folder: Path,
) -> None:
    """A StableDiffusionPipeline folder in half precision, and beside its text encoder the projection: a pipeline has no
    use for that, but scoring has, as it takes texts into the space of the image encoder."""
    with TemporaryDirectory() as known:
        text_encoder.save_pretrained(known)
        words = CLIPTextModel.from_pretrained(known)
    sampling = {"clip_sample": False, "set_alpha_to_one": False, "steps_offset": 1, "timestep_spacing": "trailing"}
    pipe = StableDiffusionPipeline(
        vae=vae, text_encoder=words, tokenizer=tokenizer, unet=unet,
        scheduler=DDIMScheduler.from_config(noise_schedule.config, **sampling),
        safety_checker=None, feature_extractor=None, requires_safety_checker=False,
    )  # fmt: skip
    pipe.to(torch.float16)
    with replacing_folder(folder) as whole:
        pipe.save_pretrained(whole)
        projection = text_encoder.text_projection.weight.detach().half()
        save_file({"text_projection.weight": projection}, whole / "text_encoder" / TEXT_PROJECTION)
