"""Training of the adapter: noise loss and localisation loss on a frozen base (paper, section 3.4).

python -m consistentid.training.trainer recipes/drawn.yaml --stack runs/stack --out runs/adapter
"""

from __future__ import annotations

from pathlib import Path

import click
import numpy as np
import torch
from diffusers import DDPMScheduler, StableDiffusionPipeline
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers import CLIPVisionModelWithProjection

from consistentid import encoding
from consistentid.adapter import ConsistentID
from consistentid.data.portraits import Caption
from consistentid.faces.parts import PARTS
from consistentid.faces.recognition import OnnxRecogniser
from consistentid.prompt import FacialText, compose, facial_sentence
from consistentid.spec import AdapterSpec
from consistentid.training.attention import AttentionRecorder
from consistentid.training.config import TrainConfig
from consistentid.training.examples import open_references, target_masks
from consistentid.training.losses import localisation_over_layers, noise_loss
from consistentid.training.stack.autoencoder import open_latents
from consistentid.training.stack.loop import Losses, train
from consistentid.training.stack.recipe import Recipe
from consistentid.training.stack.text import captions
from consistentid.training.stack.unet import skewed_timesteps


class AdapterTrainer:
    """One training step after another of a `ConsistentID` attached to a frozen pipeline."""

    def __init__(self, config: TrainConfig, recipe: Recipe, stack: Path, device: torch.device) -> None:
        self.config, self.device = config, device
        self.pipe = StableDiffusionPipeline.from_pretrained(stack / "base", torch_dtype=torch.float32).to(device)
        self.pipe.set_progress_bar_config(disable=True)
        for module in (self.pipe.unet, self.pipe.vae, self.pipe.text_encoder):
            module.requires_grad_(False)
        image_encoder = CLIPVisionModelWithProjection.from_pretrained(stack / "image_encoder").float().to(device).eval()
        recogniser = OnnxRecogniser(stack / "recogniser.onnx")
        self.pool = recipe.pool("train")
        self.latents = open_latents(self.pool, self.pipe.vae, stack / "latents-train.npy", device)
        self.references = open_references(
            self.pool, config.people, config.views, image_encoder, recogniser, stack / "references.pt", device
        )
        text_dim = self.pipe.unet.config.cross_attention_dim
        clip_dim = image_encoder.config.hidden_size
        torch.manual_seed(config.schedule.seed)
        self.cid = ConsistentID(AdapterSpec(id_dim=512, clip_dim=clip_dim, text_dim=text_dim, **config.spec))
        self.cid.attach(self.pipe)
        groups = self.cid.parameter_groups()
        for name, parameters in groups.items():
            for parameter in parameters:
                parameter.requires_grad_(name in config.trained)
        self.trainable = nn.ParameterList([p for name in config.trained for p in groups[name]])
        self.schedule = DDPMScheduler.from_config(self.pipe.scheduler.config)
        self.recorder = AttentionRecorder(self.pipe.unet, config.localisation_blocks)
        self.count, self.limit = encoding.token_counter(self.pipe), encoding.context_length(self.pipe)

    def __len__(self) -> int:
        return self.config.people * self.pool.spec.scenes

    def loss(self, rows: NDArray[np.int64], generator: torch.Generator) -> Losses:
        """Both losses on the pictures ``rows`` of the pool."""
        config, device = self.config, self.device
        rng = np.random.default_rng(generator.initial_seed())
        z = torch.from_numpy(self.latents[rows]).float().to(device)
        people, scenes = rows // self.pool.spec.scenes, rows % self.pool.spec.scenes
        view = rng.integers(config.views, size=len(rows))
        clash = (view == scenes) & (rng.random(len(rows)) > config.same_picture)
        view = np.where(clash, (view + 1) % config.views, view)
        reference = torch.from_numpy(people * config.views + view)
        dropped = rng.random(len(rows)) < config.condition_dropout

        visible = self.references.mask[reference]
        told = captions(self.pool, rows, generator.initial_seed())
        texts = [
            self._compose(caption, mask, drop, rng)
            for caption, mask, drop in zip(told, visible.tolist(), dropped, strict=True)
        ]
        with torch.no_grad():
            text = encoding.encode(self.pipe, [t.full for t in texts]).text
        parts, token_mask, part_mask = self.cid.arrange(texts, self.references.parts[reference].float(), self.limit)
        text = self.cid.fuse(text, parts.to(device), token_mask.to(device), part_mask.to(device))

        gone = torch.from_numpy(dropped).to(device)
        embedding = self.references.embedding[reference].to(device).masked_fill(gone[:, None], 0.0)
        blank = self.references.blank.float().to(device)
        face = torch.where(gone[:, None, None], blank, self.references.face[reference].float().to(device))
        tokens = self.cid.id_tokens(embedding, face)

        noise = torch.randn(z.shape, generator=generator, device=device)
        steps = self.schedule.config.num_train_timesteps
        t = skewed_timesteps(len(z), steps, config.timestep_power, generator)
        noisy = self.schedule.add_noise(z, noise, t)
        velocity = self.schedule.config.prediction_type == "v_prediction"
        target = self.schedule.get_velocity(z, noise, t) if velocity else noise
        size = (z.shape[-2], z.shape[-1])
        masks, person = (m.to(device) for m in target_masks(self.pool.labels[rows], size))
        whole = torch.from_numpy(rng.random(len(rows)) >= config.background_masking).to(device)
        person = torch.where(whole[:, None, None, None], 1.0, person)

        positions, used = self._positions(texts)
        with self.recorder.recording(positions.to(device), size) as maps:
            prediction = self.pipe.unet(
                noisy, t, encoder_hidden_states=text, added_cond_kwargs={"image_embeds": [tokens[:, None]]}
            ).sample
        noise_part = noise_loss(prediction, target, person)
        visible_target = used.to(device) & (masks.amax((-2, -1)) > 0)
        localisation = localisation_over_layers(list(maps.values()), masks, visible_target)
        return {
            "loss": noise_part + config.localisation_weight * localisation,
            "noise": noise_part,
            "localisation": localisation,
        }

    def _compose(self, caption: Caption, mask: list[bool], drop: bool, rng: np.random.Generator) -> FacialText:
        visible = [part for part, seen in zip(PARTS, mask, strict=True) if seen]
        kind = rng.random()
        if drop:
            return compose("", "", (), self.cid.spec, self.count, self.limit)
        sentence = caption.face
        if kind < self.config.text_only:
            sentence = ""
        elif kind < self.config.text_only + self.config.fixed_sentence:
            sentence = facial_sentence(self.cid.spec, visible)
        return compose(caption.image, sentence, visible, self.cid.spec, self.count, self.limit)

    @staticmethod
    def _positions(texts: list[FacialText]) -> tuple[Tensor, Tensor]:
        """Text position of the word of each part (B, N), in order of `PARTS`, and whether there is one (B, N)."""
        positions = torch.zeros(len(texts), len(PARTS), dtype=torch.long)
        used = torch.zeros(len(texts), len(PARTS), dtype=torch.bool)
        for row, text in enumerate(texts):
            for word, position in zip(text.words, text.positions, strict=True):
                positions[row, PARTS.index(word)] = position
                used[row, PARTS.index(word)] = True
        return positions, used


@click.command()
@click.argument("recipe", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option(
    "--stack", required=True, type=click.Path(exists=True, path_type=Path), help="Folder of the trained stack."
)
@click.option("--out", required=True, type=click.Path(path_type=Path), help="Folder of checkpoints and the adapter.")
@click.option("--device", default="cuda" if torch.cuda.is_available() else "cpu", show_default=True)
def main(recipe: Path, stack: Path, out: Path, device: str) -> None:
    """Train the adapter of RECIPE, or go on where an interrupted run stopped."""
    config = TrainConfig.from_yaml(recipe)
    trainer = AdapterTrainer(config, Recipe(recipe, stack / "cache"), stack, torch.device(device))
    train("adapter", trainer.trainable, trainer.loss, config.schedule, len(trainer), out, device=trainer.device)
    trainer.cid.detach()
    trainer.cid.save_pretrained(out, dtype=torch.float16)


if __name__ == "__main__":
    main()
