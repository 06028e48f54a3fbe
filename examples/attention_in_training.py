"""Where the words "eyes", "nose" and "mouth" look before and after a short training with the localisation loss.

python examples/attention_in_training.py --steps 80 --out docs/images/attention-in-training.png
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from PIL import Image
from torch.nn.functional import interpolate

from consistentid.faces.parts import PARTS, part_masks
from consistentid.files.images import contact_sheet
from consistentid.pipeline.attention import glowing
from consistentid.training.config import TrainConfig
from consistentid.training.losses import localisation_over_layers
from consistentid.training.trainer import Trainer

RECIPE = Path(__file__).parents[1] / "recipes/drawn.yaml"
SHOWN = ("eyes", "nose", "mouth")
CHANGES = (
    "pictures.train={people: 64, scenes: 4}", "adapter.people=0", "adapter.trained=[facial_encoder, ip_layers, lora]",
    "adapter.base_share=0", "adapter.condition_dropout=0", "adapter.fixed_sentence=1", "adapter.text_only=0",
    "adapter.localisation_weight=0.2", "adapter.validation.every=0", "adapter.cache=[latents, references, text]",
    "adapter.schedule={batch: 8, lr: 1.0e-3, warmup: 5, ema: 0}",
)  # fmt: skip


@torch.no_grad()
def attention(trainer: Trainer, rows: list[int]) -> tuple[torch.Tensor, float]:
    """Attention maps (B, N, h, w) on little-noised pictures of the source, and their mean localisation loss."""
    examples = [trainer.examples[0, index, row] for index, row in enumerate(rows)]
    batch = replace(trainer.examples.batch(examples), time=torch.full((len(rows),), 0.35, dtype=torch.float64))
    trainer.module(batch)
    maps = list(trainer.module.recorder.maps.values())
    loss = localisation_over_layers(maps, batch.masks, batch.used).mean().item()
    trainer.module.recorder.stop()
    return mean_map(maps, (batch.latents.shape[-2], batch.latents.shape[-1])), loss


def mean_map(maps: list[torch.Tensor], size: tuple[int, int]) -> torch.Tensor:
    """Mean over layers of attention maps (B, N, ., .), each divided by its maximum, at one size; 0 to 1."""
    scaled = [each.float().cpu() / each.float().cpu().amax((-2, -1), keepdim=True).clamp(min=1e-8) for each in maps]
    mean = torch.stack([interpolate(each, size, mode="bilinear") for each in scaled]).mean(0)
    spread = mean - mean.amin((-2, -1), keepdim=True)
    return spread / spread.amax((-2, -1), keepdim=True).clamp(min=1e-8)


def _seen(trainer: Trainer, row: int) -> bool:
    """Whether a picture shows all the parts whose words are watched."""
    return set(SHOWN) <= set(part_masks(trainer.source[row].labels))


def main() -> None:
    """Train, and write the sheet."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=80)
    parser.add_argument("--people", type=int, default=3)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    config = TrainConfig.from_yaml(RECIPE, (*CHANGES, f"adapter.schedule.steps={options.steps}"))
    with TemporaryDirectory() as folder:
        trainer = Trainer(config, Path(folder), device="cpu")
        shown = [row for row in range(0, len(trainer.source), 4) if _seen(trainer, row)]
        rows = shown[: options.people]
        before, first = attention(trainer, rows)
        trainer.train()
        after, last = attention(trainer, rows)
        pictures, captions = [], []
        for number, row in enumerate(rows):
            picture = Image.fromarray(trainer.source[row].pixels).resize((256, 256), Image.Resampling.LANCZOS)
            pictures.append(picture)
            captions.append("picture")
            for word in SHOWN:
                for when, maps in (("before", before), ("after", after)):
                    pictures.append(glowing(picture, maps[number, PARTS.index(word)].numpy()))
                    captions.append(f'"{word}" {when}')
    options.out.parent.mkdir(parents=True, exist_ok=True)
    contact_sheet([], pictures, captions, tile=128, columns=1 + 2 * len(SHOWN)).save(options.out)
    print(f"{options.out}: mean localisation loss of these pictures {first:.3f} before, {last:.3f} after")


if __name__ == "__main__":
    main()
