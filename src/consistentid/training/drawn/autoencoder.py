"""The autoencoder: pictures to latents and back, first to the pixel, then to the eye.

`train_autoencoder` learns both halves by the error of the pictures. What is left of the error then is blur, since the
mean of all sharp pictures that the latents allow is a soft one; `train_decoder` goes on with the decoder alone, against
a critic that tells drawings from decoded ones, on latents as inexact as a diffusion model's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice, pairwise
from pathlib import Path

import numpy as np
import torch
from diffusers import DDPMScheduler, StableDiffusionPipeline
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import spectral_norm
from transformers import CLIPTokenizer

from consistentid.drawn.autoencoder import ConvAutoencoderKL, Decoder, Encoder, ResidualBlock
from consistentid.drawn.pools import Pool, copied, pixels
from consistentid.errors import InputError
from consistentid.faces.differentiable import DifferentiableOnnx
from consistentid.files.writing import replacing_folder
from consistentid.presets.loading import loading
from consistentid.presets.network import Network
from consistentid.training.attention import plain_attention
from consistentid.training.drawn.latents import Latents, open_latents
from consistentid.training.drawn.loop import Losses, Opponent, train
from consistentid.training.drawn.pictures import labelled
from consistentid.training.drawn.recipe import Mixture, Recipe, arguments
from consistentid.training.drawn.text import tokenize
from consistentid.training.drawn.unet import texts_of
from consistentid.training.identity import embedded
from consistentid.training.losses import clean_latents
from consistentid.training.schedule import batched
from consistentid.training.state import misfits, widened

# Eyes, brows, nose, mouth: few pixels, most of the likeness.
DETAIL_LABELS = (2, 3, 4, 5, 6, 10, 11, 12, 13)


def detail_weight(labels: Tensor, device: torch.device) -> Tensor:
    """(B, 1, H, W) of labels (B, H, W): 4.5 on the details of the face, 1.5 on the rest of the person, 1 elsewhere."""
    tensor = labels.to(device, non_blocking=True)
    details = torch.isin(tensor, torch.tensor(DETAIL_LABELS, dtype=torch.uint8, device=device))
    return (1 + 0.5 * (tensor > 0).float() + 3.0 * details.float())[:, None]


def _gradients(x: Tensor) -> tuple[Tensor, Tensor]:
    return x[..., :, 1:] - x[..., :, :-1], x[..., 1:, :] - x[..., :-1, :]


def reconstruction_loss(y: Tensor, x: Tensor, weight: Tensor) -> Tensor:
    """Weighted absolute and squared error, and the error of the edges."""
    error = y - x
    edges = sum(F.l1_loss(a, b) for a, b in zip(_gradients(y), _gradients(x), strict=True))
    return (weight * (error.abs() + error**2)).mean() + edges


class Critic(nn.Module):
    """Tells drawings from decoded ones, patch by patch: pictures (B, 3, H, W) -> scores (B, 1, H/8, W/8)."""

    def __init__(self, channels: tuple[int, ...] = (48, 64, 96)) -> None:
        super().__init__()
        layers = [spectral_norm(nn.Conv2d(12, channels[0], 3, padding=1))]
        for before, width in pairwise(channels):
            layers.append(spectral_norm(nn.Conv2d(before, width, 4, stride=2, padding=1)))
        self.layers = nn.ModuleList(layers)
        self.score = spectral_norm(nn.Conv2d(channels[-1], 1, 3, padding=1))

    def forward(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Scores, above 0 for a drawing, and the features of every layer."""
        features = []
        x = F.pixel_unshuffle(x, 2)
        for layer in self.layers:
            x = F.leaky_relu(layer(x), 0.2)
            features.append(x)
        return self.score(x).float(), features


@torch.no_grad()
def reconstruction_report(vae: ConvAutoencoderKL, held_out: Pool, device: torch.device) -> dict[str, float]:
    """Errors in [-1, 1] on held-out people, over everything and on the details of the face."""
    total, squared, detail, latents = [], [], [], []
    for part in batched(min(len(held_out), 512), 32):
        x, weight = pixels(held_out.images[part], device), detail_weight(copied(held_out.labels, part), device)
        z = vae.encode(x, return_dict=False)[0].mean
        error = vae.decode(z, return_dict=False)[0] - x
        total.append(error.abs().mean())
        squared.append((error**2).mean())
        detail.append(error.abs()[(weight > 2).expand_as(error)].mean())
        latents.append(z)
    return {
        "mean_absolute_error": float(torch.stack(total).mean()),
        "mean_absolute_error_on_facial_details": float(torch.stack(detail).mean()),
        "psnr": float(-10 * torch.log10(torch.stack(squared).mean() / 4)),
        "latent_std": float(torch.cat(latents).std()),
    }


def train_autoencoder(recipe: Recipe, out: Path, device: torch.device) -> None:
    """Train and save ``out/vae``; reports the error on held-out people. `train_decoder` goes on.

    Where it begins with another one, whose latents a model knows, what made these stays as it is.
    """
    section = recipe.section("autoencoder")
    torch.manual_seed(section.schedule.seed)
    network = arguments(ConvAutoencoderKL, section.network, f"{section.where}: network")
    vae = ConvAutoencoderKL(sample_size=recipe.size, **network).to(device).eval()  # but for what learns
    encoder: Encoder | None = vae.encoder  # what of it learns
    learns: nn.Module = vae
    if init := section.options["init"]:
        with loading("vae", Network(path=init)):
            known = ConvAutoencoderKL.from_pretrained(init).float()
        begin_with(vae, known, f"options.init of the autoencoder: {init}")
        vae.encoder.requires_grad_(False)
        encoder = vae.encoder.details
        learns = nn.ModuleList([vae.decoder, encoder.requires_grad_(True)] if encoder else [vae.decoder])
    if recipe.compile:
        vae.encoder.compile()
        vae.decoder.compile()
    mixture, held_out = recipe.mixture("train"), recipe.pool("validation")
    noise = section.options["noise"]

    def loss(batch: tuple[Tensor, Tensor], generator: torch.Generator) -> Losses:
        images, labels = batch
        x, weight = _mirrored(pixels(images, device), detail_weight(labels, device), generator)
        z = vae.encode(x, return_dict=False)[0].mean
        y = vae.decode(_inexact(z, noise, generator), return_dict=False)[0].float()
        return {"loss": reconstruction_loss(y, x, weight), "l1": (y - x).abs().mean()}

    def report() -> dict[str, float]:
        if encoder:
            _settle(vae, encoder, mixture.portraits, device)
        return reconstruction_report(vae, held_out, device)

    schedule, count, precision = section.schedule, len(mixture.portraits), recipe.precision
    if train(
        "autoencoder", learns, loss, schedule, count, out, device=device, prepared=partial(labelled, mixture),
        workers=recipe.ahead, report=report, precision=precision,
    ):  # fmt: skip
        with replacing_folder(out / "vae") as folder:
            vae.half().save_pretrained(folder)


@torch.no_grad()
def _settle(vae: ConvAutoencoderKL, encoder: Encoder, pool: Pool, device: torch.device, pictures: int = 4096) -> None:
    """Measure the deviations of an encoder's latents anew: the weights are averages over steps, those were not."""
    normalise = encoder.normalise
    normalise.reset_running_stats()
    normalise.train()
    momentum, normalise.momentum = normalise.momentum, None  # None: the plain mean over all batches
    rows = np.linspace(0, len(pool) - 1, min(pictures, len(pool))).astype(np.int64)
    for part in batched(len(rows), 64):
        vae.encode(pixels(pool.images[rows[part]], device))
    normalise.momentum = momentum
    normalise.eval()


def _mirrored(x: Tensor, weight: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Half of the pictures, with their weights, seen in a mirror."""
    mirror = torch.rand(len(x), 1, 1, 1, generator=generator, device=x.device) < 0.5
    return torch.where(mirror, x.flip(3), x), torch.where(mirror, weight.flip(3), weight)


def _inexact(z: Tensor, noise: float, generator: torch.Generator) -> Tensor:
    """Latents as a diffusion model makes them: never quite those of a picture, some less than others.

    What bears noise is told by all of a picture's latents together, and a UNet need not hit each of them.
    """
    spread = noise * torch.rand(len(z), 1, 1, 1, generator=generator, device=z.device)
    return z + spread * torch.randn(z.shape, generator=generator, device=z.device)


class Redrawing:
    """Makes of latents what a diffusion model would have made of them: some stay, of others it sees noise and words.

    Args:
        base: folder of the model, a pipeline.
        share: of the latents that do not stay.
        most: noise, up to that of this share of the timesteps.
    """

    def __init__(self, base: Path, share: float, most: float, device: torch.device) -> None:
        with loading("base", Network(path=base)):
            self._pipe = StableDiffusionPipeline.from_pretrained(base, vae=None, dtype=torch.float32).to(device)
        for network in (self._pipe.unet, self._pipe.text_encoder):
            network.requires_grad_(False)
        plain_attention(self._pipe.unet, device)
        self._schedule = DDPMScheduler.from_config(self._pipe.scheduler.config)
        self._share, self._most = share, most

    @property
    def tokenizer(self) -> CLIPTokenizer:
        """Of its words."""
        return self._pipe.tokenizer

    @torch.no_grad()
    def __call__(self, z: Tensor, tokens: Tensor, generator: torch.Generator) -> Tensor:
        """Latents (B, C, h, w), of pictures of which the words (B, T) are true."""
        steps = self._schedule.config.num_train_timesteps
        chosen, depth = torch.rand(2, len(z), generator=generator, device=z.device)
        noise = torch.randn(z.shape, generator=generator, device=z.device)
        rows = (chosen < self._share).nonzero()[:, 0]
        if not len(rows):
            return z
        t = (steps * self._most * depth[rows]).long()
        noisy = self._schedule.add_noise(z[rows], noise[rows], t)
        words = self._pipe.text_encoder(tokens[rows]).last_hidden_state
        prediction = self._pipe.unet(noisy, t, words).sample.float()
        signal = self._schedule.alphas_cumprod.to(z.device)[t]
        return z.index_copy(0, rows, clean_latents(noisy, prediction, signal, self._schedule.config.prediction_type))


def begin_with(vae: ConvAutoencoderKL, known: ConvAutoencoderKL, where: str) -> None:
    """Take over the weights of another autoencoder, whose latents and pictures stay as they are.

    The new one may have more residual blocks in its decoder, which begin as the identity, and channels of details
    besides, of which its decoder sees nothing yet.

    Raises:
        InputError: it is another in other ways.
    """
    own, others = vae.encoder.state_dict(), known.encoder.state_dict()
    if not known.config.detail_channels:
        own = {name: x for name, x in own.items() if not name.startswith("details.")}
    if wrong := misfits(others, own):
        raise InputError(f"{where} has another {wrong[0]} in its encoder than this recipe's autoencoder")
    has, had = list(vae.config.decoder_layers), list(known.config.decoder_layers)
    if len(has) != len(had) or any(now < before for now, before in zip(has, had, strict=True)):
        raise InputError(f"{where} has decoder_layers {had}, and this recipe {has}; give as many levels, and no fewer")
    vae.encoder.load_state_dict(others, strict=False)
    for mine, theirs in zip(_by_level(vae.decoder, has), _by_level(known.decoder, had), strict=True):
        for layer, before in zip(mine, theirs, strict=False):
            kept = layer.state_dict()
            found = {name: widened(x, kept[name]) for name, x in before.state_dict().items()}
            if wrong := misfits(found, kept):
                raise InputError(f"{where} has another {wrong[0]} in its decoder than this recipe's autoencoder")
            layer.load_state_dict(found)


def _by_level(decoder: Decoder, layers: Sequence[int]) -> list[list[nn.Module]]:
    """A decoder's residual blocks of each level, and all layers between and behind them."""
    blocks = iter([layer for layer in decoder.body if isinstance(layer, ResidualBlock)])
    levels: list[list[nn.Module]] = [list(islice(blocks, count)) for count in reversed(layers)]
    return [*levels, [*(x for x in decoder.body if not isinstance(x, ResidualBlock)), decoder.conv_out]]


def train_decoder(recipe: Recipe, out: Path, device: torch.device) -> None:
    """Train the decoder of ``out/vae`` further, against a critic; the latents stay, so the UNet is not affected."""
    section = recipe.section("decoder")
    torch.manual_seed(section.schedule.seed)
    options = section.options
    vae = ConvAutoencoderKL.from_pretrained(out / "vae").float()
    if options["layers"]:
        known = vae
        vae = ConvAutoencoderKL.from_config(known.config, decoder_layers=options["layers"])
        vae.eval()  # as loaded: in training its encoder would measure the latents anew
        begin_with(vae, known, f"{out / 'vae'}")
    vae = vae.to(device).requires_grad_(False)
    vae.decoder.requires_grad_(True)
    critic = Critic().to(device)
    if recipe.compile:
        vae.decoder.compile()
    mixture, held_out = recipe.mixture("train"), recipe.pool("validation")
    latents = [open_latents(pool, vae, out, device) for pool in mixture.pools]
    redrawing = None
    if options["base"]:
        redrawing = Redrawing(options["base"], options["redrawn_share"], options["redrawn_from"], device)
    recognisers = [DifferentiableOnnx(path).to(device) for path in options["recognisers"] if options["identity"]]
    prepared = partial(_to_decode, mixture, latents, redrawing.tokenizer if redrawing else None)
    pair: dict[str, Tensor] = {}  # of the step: a drawing and what the decoder makes of it, for the critic

    def loss(batch: _ToDecode, generator: torch.Generator) -> Losses:
        x, weight = pixels(batch.images, device), detail_weight(batch.labels, device)
        z = batch.latents.to(device).float()
        if redrawing:
            z = redrawing(z, batch.tokens.to(device), generator)
        y = vae.decode(_inexact(z, options["noise"], generator), return_dict=False)[0].float()
        pair.update(drawn=x, decoded=y.detach(), weight=_of_patches(weight))
        with torch.no_grad():
            _, wanted = critic(x)
        judged, found = critic(y)
        features = sum(F.l1_loss(a.float(), b.float()) for a, b in zip(found, wanted, strict=True))
        rebuilt = reconstruction_loss(y, x, weight)
        total = rebuilt + options["features"] * features - options["adversarial"] * (pair["weight"] * judged).mean()
        losses = {"rebuilt": rebuilt, "features": features}
        if recognisers:
            landmarks = batch.landmarks.to(device)
            with torch.no_grad():
                known = embedded(recognisers, x, landmarks)
            losses["identity"] = 1 - F.cosine_similarity(embedded(recognisers, y, landmarks), known, dim=-1).mean()
            total = total + options["identity"] * losses["identity"]
        return {"loss": total, **losses}

    def tell_apart(_batch: object, _generator: torch.Generator) -> Losses:
        real, fake = critic(pair["drawn"])[0], critic(pair["decoded"])[0]
        return {"loss": (pair["weight"] * (F.relu(1 - real) + F.relu(1 + fake))).mean()}

    def report() -> dict[str, float]:
        return reconstruction_report(vae, held_out, device)

    schedule, count = section.schedule, len(mixture.portraits)
    opponent = Opponent("critic", critic, tell_apart, replace(schedule, lr=2 * schedule.lr, ema=0.0))
    if train(
        "decoder", vae.decoder, loss, schedule, count, out, device=device, prepared=prepared, workers=recipe.ahead,
        report=report, opponents=[opponent], precision=recipe.precision,
    ):  # fmt: skip
        with replacing_folder(out / "vae") as folder:
            vae.half().save_pretrained(folder)


def _of_patches(weight: Tensor) -> Tensor:
    """Weights (B, 1, H, W) of pixels as those of the critic's patches, (B, 1, H/8, W/8), of mean 1."""
    pooled = F.avg_pool2d(weight, 8)
    return pooled / pooled.mean()


@dataclass(frozen=True)
class _ToDecode:
    """Pictures (B, H, W, 3), labels (B, H, W), latents (B, C, h, w), landmarks (B, P, 5, 2), words (B, T) if asked."""

    images: Tensor
    labels: Tensor
    latents: Tensor
    landmarks: Tensor
    tokens: Tensor


def _to_decode(
    mixture: Mixture,
    latents: Sequence[Latents],
    tokenizer: CLIPTokenizer | None,
    rows: NDArray[np.int64],
    seed: int,
) -> _ToDecode:
    number, pool, rows = mixture.batch(rows, seed)
    tokens = torch.empty(len(rows), 0)
    if tokenizer:
        tokens = tokenize(tokenizer, texts_of(pool, rows, seed, np.random.default_rng(seed)))
    landmarks = copied(pool.landmarks, rows).reshape(len(rows), -1, 5, 2)
    return _ToDecode(copied(pool.images, rows), copied(pool.labels, rows), latents[number][rows], landmarks, tokens)
