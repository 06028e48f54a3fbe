"""What identity costs while sampling: one UNet step of Stable Diffusion 1.5 in five variants, with random weights.

    python benchmarks/attention.py                            # 512x768, guidance on
    python benchmarks/attention.py --width 256 --height 384 --repeats 3
    python benchmarks/attention.py --variant ours --variant "ours, folded"    # beside the plain UNet only
    python benchmarks/attention.py --variant "ours, folded" --variant "ours, folded, 2 people"
    python benchmarks/attention.py --device cuda --dtype float16 --pictures   # also whole pictures and peak memory

Variants: the plain UNet; with the adapter attached; with the adapter attached and its LoRA folded in; the latter with
two and with three people in regions beside one another, instead of one person without; and the method as the reference
implementation computes it, LoRA products in every layer and attention as explicit matrices, or with
PyTorch's fused attention kernel. All take turns within one run, so that what else the machine does touches all alike;
on a CPU the process's own time is counted, so that it hardly matters. Prints JSON: median seconds, ratios to the plain
UNet of the medians and of the fastest steps, and how far ours and the reference's outputs differ.
"""

from __future__ import annotations

import contextlib
import json
import os
import statistics
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import click
import torch
from random_models import bare_pipeline, filled, now, pipeline, unet
from torch import Tensor, nn
from torch.nn.functional import linear, scaled_dot_product_attention

from consistentid import ConsistentID, Identity
from consistentid.adapter.injection import attention_layers
from consistentid.adapter.long_text import LongText
from consistentid.adapter.regions import Regions
from consistentid.adapter.spec import AdapterSpec
from consistentid.faces.parts import PARTS

Step = Callable[[], Tensor]
Turn = tuple[Callable[[], contextlib.AbstractContextManager[None]], Step]
PEOPLE = {"ours, folded, 2 people": 2, "ours, folded, 3 people": 3}
VARIANTS = ("plain", "ours", "ours, folded", *PEOPLE, "reference", "reference, fused kernel")
PROMPT = "a person in a red hat on a beach"


class ReferenceAttention:
    """Decoupled cross-attention and LoRA as the method is written down, one product after the other.

    Args:
        weights: "to_q_lora.down.weight", "to_k_ip.weight" and so on, of one layer.
        tokens: ID tokens behind the text.
        fused: attention in one kernel instead of explicit matrices.
    """

    def __init__(self, weights: dict[str, Tensor], tokens: int, fused: bool) -> None:
        self.weights, self.tokens, self.fused = weights, tokens, fused

    def __call__(
        self, attn: Any, hidden_states: Tensor, encoder_hidden_states: Tensor | None = None, **_: Any
    ) -> Tensor:
        """(B, N, C) -> (B, N, C); text and ID tokens come as one (B, T + tokens, D)."""
        query = self._lora(attn.to_q, hidden_states, "to_q")
        if encoder_hidden_states is None:
            text, faces = hidden_states, None
        else:
            text, faces = encoder_hidden_states[:, : -self.tokens], encoder_hidden_states[:, -self.tokens :]
        result = self._attend(attn, query, self._lora(attn.to_k, text, "to_k"), self._lora(attn.to_v, text, "to_v"))
        if faces is not None:
            key, value = (linear(faces, self.weights[f"to_{name}_ip.weight"]) for name in "kv")
            result = result + self._attend(attn, query, key, value)
        return self._lora(attn.to_out[0], result, "to_out")

    def _lora(self, layer: nn.Linear, x: Tensor, name: str) -> Tensor:
        down, up = (self.weights[f"{name}_lora.{side}.weight"] for side in ("down", "up"))
        return layer(x) + linear(linear(x, down), up)

    def _attend(self, attn: Any, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        query, key, value = (x.unflatten(-1, (attn.heads, -1)).transpose(1, 2) for x in (query, key, value))
        if self.fused:
            out = scaled_dot_product_attention(query, key, value)
        else:
            out = (query @ key.transpose(-1, -2) * attn.scale).softmax(dim=-1) @ value
        return out.transpose(1, 2).flatten(2)


def adapter(pipe: Any, dtype: torch.dtype) -> ConsistentID:
    """An adapter of the released sizes whose LoRA changes something."""
    cid = ConsistentID(AdapterSpec.released("sd15")).to(dtype=dtype)
    with cid.attached(pipe):
        pass  # makes its layers
    with torch.no_grad():
        for parameter in cid.parameter_groups()["lora"]:
            parameter.copy_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(0)) * 0.02)
    return cid


@contextlib.contextmanager
def prepared(variant: str, pipe: Any, cid: ConsistentID) -> Iterator[None]:
    """The UNet as the variant wants it."""
    if variant.startswith("ours"):
        with cid.attached(pipe, fold="folded" in variant):
            yield
        return
    plain = dict(pipe.unet.attn_processors)
    if variant.startswith("reference"):
        weights: list[dict[str, Tensor]] = [{} for _ in plain]
        for name, tensor in cid.state_dict().items():
            module, _, rest = name.partition(".")
            if module == "attention":
                index, _, key = rest.partition(".")
                weights[int(index)][key] = tensor.to(pipe.unet.device, pipe.unet.dtype)
        order = [f"{name}.processor" for name in attention_layers(pipe.unet)]
        make = partial(ReferenceAttention, tokens=cid.spec.tokens, fused="fused" in variant)
        pipe.unet.set_attn_processor({name: make(w) for name, w in zip(order, weights, strict=True)})
    try:
        yield
    finally:
        pipe.unet.set_attn_processor(plain)


def one_step(pipe: Any, variant: str, cid: ConsistentID, width: int, height: int) -> Step:
    """A UNet evaluation under guidance, which makes a batch of two."""
    random = torch.Generator().manual_seed(0)
    draw = partial(torch.randn, generator=random)
    latents, text, tokens = (
        x.to(pipe.unet.device, pipe.unet.dtype)
        for x in (draw(2, 4, height // 8, width // 8), draw(2, 77, 768), draw(2, 4, 768))
    )
    options: dict[str, Any] = {}
    layout: LongText | None = None
    if count := PEOPLE.get(variant):
        layout = cid.reader.add(LongText(77, 4, Regions.read(side_by_side(count)), torch.ones(2, count)))
        spans, theirs = (draw(2, number, length, 768).to(latents) for number, length in ((count + 1, 77), (count, 4)))
        text = layout.join(spans, theirs)
        options["added_cond_kwargs"] = {"image_embeds": [tokens[:, None]]}
    elif variant.startswith("ours"):
        options["added_cond_kwargs"] = {"image_embeds": [tokens[:, None]]}
    elif variant.startswith("reference"):
        text = torch.cat([text, tokens], dim=1)

    def step() -> Tensor:
        _ = layout  # known for as long as somebody keeps it
        sample: Tensor = pipe.unet(latents, 500, text, **options).sample
        return sample

    return step


def side_by_side(count: int) -> list[tuple[float, float, float, float]]:
    """Regions of people beside one another."""
    return [((i + 0.05) / count, 0.1, (i + 0.95) / count, 1.0) for i in range(count)]


def whole_pictures(pipe: Any, variant: str, cid: ConsistentID, size: tuple[int, int], batch: int, steps: int) -> Step:
    """Complete calls of the pipeline, encoding of the prompt and the picture's decoding included."""
    common = {"num_inference_steps": steps, "width": size[0], "height": size[1], "num_images_per_prompt": batch}
    if variant == "plain":
        return lambda: pipe(PROMPT, guidance_scale=5.0, output_type="pt", **common).images
    if variant.startswith("ours"):
        count = PEOPLE.get(variant, 1)
        who, regions = [somebody()] * count, side_by_side(count) if variant in PEOPLE else None
        return lambda: pipe(**cid.inputs(who, PROMPT, regions=regions), output_type="pt", **common).images
    tokens = torch.randn(1, 4, 768, generator=torch.Generator().manual_seed(0)).to(pipe.unet.device, pipe.unet.dtype)

    def reference() -> Tensor:
        text, negative = (torch.cat([x, tokens], dim=1) for x in pipe.encode_prompt(PROMPT, tokens.device, 1, True))
        embeds = {"prompt_embeds": text, "negative_prompt_embeds": negative}
        images: Tensor = pipe(**embeds, guidance_scale=5.0, output_type="pt", **common).images
        return images

    return reference


def somebody() -> Identity:
    """A person of random features."""
    random = partial(torch.randn, generator=torch.Generator().manual_seed(0))
    embedding = nn.functional.normalize(random(512), dim=0)
    seen = torch.ones(len(PARTS), dtype=torch.bool)
    parts = random(len(PARTS), 257, 1280)
    return Identity(embedding, random(257, 1280), parts, seen, random(257, 1280), {"part_layout": "canvas"})


def take_turns(
    turns: Mapping[str, Turn], repeats: int, device: torch.device
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Median seconds and, on a GPU, peak gigabytes of each variant; and what each gave in a first, unmeasured round."""
    seconds: dict[str, list[float]] = {name: [] for name in turns}
    outputs: dict[str, Tensor] = {}
    memory: dict[str, float] = {}
    for number in range(repeats + 1):
        for name, (prepare, step) in turns.items():
            with prepare():
                start = now(device)
                output = step()
                if number:
                    seconds[name].append(now(device) - start)
                else:
                    outputs[name] = output.float().cpu()
                if device.type == "cuda":
                    memory[name] = round(torch.cuda.max_memory_allocated(device) / 1e9, 2)
                    torch.cuda.reset_peak_memory_stats(device)
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    fastest = {name: min(values) for name, values in seconds.items()}
    report: dict[str, Any] = {
        "seconds": {name: round(value, 4) for name, value in medians.items()},
        "of plain": {name: round(value / medians["plain"], 3) for name, value in medians.items()},
        "fastest, of plain": {name: round(value / fastest["plain"], 3) for name, value in fastest.items()},
    }
    return report | ({"peak gigabytes": memory} if memory else {}), outputs


@click.command()
@click.option("--device", default="cpu", show_default=True)
@click.option("--dtype", default="float32", show_default=True, type=click.Choice(["float32", "float16", "bfloat16"]))
@click.option("--width", default=512, show_default=True)
@click.option("--height", default=768, show_default=True)
@click.option("--repeats", default=5, show_default=True)
@click.option("--variant", "variants", multiple=True, type=click.Choice(VARIANTS[1:]), default=VARIANTS[1:])
@click.option("--pictures", is_flag=True, help="Also whole pictures, in batches of 1 and 4.")
@click.option("--steps", default=50, show_default=True, help="Sampling steps of whole pictures.")
@torch.no_grad()
def main(
    device: str,
    dtype: str,
    width: int,
    height: int,
    repeats: int,
    variants: tuple[str, ...],
    pictures: bool,
    steps: int,
) -> None:
    """Seconds of one UNet step, and of whole pictures, in every variant."""
    place, kind = torch.device(device), getattr(torch, dtype)
    if pictures:
        pipe = pipeline("sd15", kind, place)
        pipe.set_progress_bar_config(disable=True)
    else:  # what the other networks weigh need not be in memory
        pipe = bare_pipeline("sd15", filled(lambda: unet("sd15"), kind, place))
    cid = adapter(pipe, kind)
    names = ("plain", *variants)
    turns = {name: (partial(prepared, name, pipe, cid), one_step(pipe, name, cid, width, height)) for name in names}

    one, outputs = take_turns(turns, repeats, place)
    distance = {}
    if "reference" in variants:
        expected, plain = outputs["reference"], outputs["plain"]
        distance = {name: float((outputs[name] - expected).norm() / (plain - expected).norm()) for name in variants}
    report: dict[str, Any] = {
        "device": torch.cuda.get_device_name(place) if place.type == "cuda" else "cpu",
        "threads": torch.get_num_threads(),
        "load average": os.getloadavg()[0],
        "dtype": dtype,
        "torch": torch.__version__,
        "size": f"{width}x{height}",
        "repeats": repeats,
        "one step": one,
        "difference to the reference, as a share of what identity changes": distance,
    }
    for batch in (1, 4) if pictures else ():
        turns = {
            name: (partial(prepared, name, pipe, cid), whole_pictures(pipe, name, cid, (width, height), batch, steps))
            for name in names
        }
        report[f"{batch} whole, {steps} steps"], _ = take_turns(turns, max(1, repeats // 2), place)
    click.echo(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
