"""The face parser: a SegFormer that labels every pixel of a drawing."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F
from transformers import SegformerConfig, SegformerForSemanticSegmentation, SegformerImageProcessorPil

from consistentid.drawn.pools import pixels
from consistentid.faces.parts import LABELS
from consistentid.files.writing import replacing_folder
from consistentid.training.drawn.clip import NORMAL
from consistentid.training.drawn.loop import Losses, train
from consistentid.training.drawn.recipe import Recipe, arguments
from consistentid.training.schedule import batched

SWAPPED = {2: 3, 3: 2, 4: 5, 5: 4, 7: 8, 8: 7}  # labels of the left become those of the right in a mirror


def augment(x: Tensor, y: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Mirrored, cut closer, two faces side by side, or four small ones: the framings that users' pictures have.

    x: (B, 3, S, S) pictures, y: (B, S, S) labels; the whole batch gets one framing.
    """

    def number(high: int, low: int = 0) -> int:
        return int(torch.randint(low, high, (), generator=generator, device=x.device))

    size = x.shape[-1]
    if number(2):
        x, y = x.flip(-1), y.flip(-1)
        table = torch.tensor([SWAPPED.get(i, i) for i in range(len(LABELS))], device=x.device)
        y = table[y]
    kind = number(6)
    if kind == 0:
        side = number(size, low=size * 5 // 8)
        top, left = number(size - side + 1), number(size - side + 1)
        x, y = x[..., top : top + side, left : left + side], y[..., top : top + side, left : left + side]
    elif kind == 1:
        quarter = slice(size // 4, size - size // 4)
        x, y = (torch.cat([t[..., quarter], t.roll(1, 0)[..., quarter]], -1) for t in (x, y))
    elif kind == 2:
        rows = [torch.cat([t.roll(i, 0) for i in (0, 1)], -1) for t in (x, y)]
        x, y = (torch.cat([r, r.roll(2, 0)], -2) for r in rows)
    if x.shape[-1] != size:
        x = F.interpolate(x, (size, size), mode="bilinear", antialias=True)
        y = F.interpolate(y[:, None].float(), (size, size), mode="nearest-exact")[:, 0].long()
    if number(3) == 0:  # softer pictures than the drawn ones
        small = F.interpolate(x, scale_factor=0.6, mode="bilinear", antialias=True)
        x = F.interpolate(small, (size, size), mode="bilinear")
    return x, y


def train_parser(recipe: Recipe, out: Path, device: torch.device) -> None:
    """Train and save ``out/parser``; reports the mean intersection over union and that of every class."""
    section, size = recipe.section("parser"), recipe.size
    pool, held_out = recipe.pool("train"), recipe.pool("validation")
    torch.manual_seed(section.schedule.seed)
    names = dict(enumerate(LABELS))
    config = SegformerConfig(
        num_labels=len(LABELS), id2label=names, label2id={n: i for i, n in names.items()},
        **arguments(SegformerConfig, section.network, f"{section.where}: network"),
    )  # fmt: skip
    parser = SegformerForSemanticSegmentation(config).to(device)
    # Rare classes are small parts of the face; the square root keeps large ones from drowning them.
    counts = np.bincount(np.asarray(pool.labels[::64]).ravel(), minlength=len(LABELS))
    weight = torch.tensor((counts.sum() / np.maximum(counts, 1)) ** 0.4, dtype=torch.float32, device=device)

    def logits(x: Tensor) -> Tensor:
        return F.interpolate(parser(pixel_values=x).logits.float(), x.shape[-2:], mode="bilinear")

    def loss(rows: NDArray[np.int64], generator: torch.Generator) -> Losses:
        x = pixels(pool.images[np.sort(rows)], device)
        y = torch.from_numpy(pool.labels[np.sort(rows)]).to(device).long()
        x, y = augment(x, y, generator)
        return {"loss": F.cross_entropy(logits(x), y, weight)}

    @torch.no_grad()
    def report() -> dict[str, float]:
        both = torch.zeros(len(LABELS), device=device)
        either = torch.zeros_like(both)
        for part in batched(min(len(held_out), 1024), 64):
            found = logits(pixels(held_out.images[part], device)).argmax(1)
            truth = torch.from_numpy(held_out.labels[part].copy()).to(device)
            for i in range(len(LABELS)):
                a, b = found == i, truth == i
                both[i] += (a & b).sum()
                either[i] += (a | b).sum()
        iou = both / either.clamp(min=1)
        return {"mean_iou": float(iou.mean())} | {f"iou_{n}": float(v) for n, v in zip(LABELS, iou, strict=True)}

    schedule, precision = section.schedule, recipe.precision
    if train("parser", parser, loss, schedule, len(pool), out, device=device, report=report, precision=precision):
        with replacing_folder(out / "parser") as folder:
            parser.half().save_pretrained(folder)
            SegformerImageProcessorPil(size={"height": size, "width": size}, **NORMAL).save_pretrained(folder)
