"""How long CLIP takes of a person on a CPU: in float32 with the blank picture each time, and as it is done now.

    python benchmarks/identify.py --parts 5 --runs 3

A ViT-H/14 of random weights and the square pictures of one photo: all parts that are seen and the whole. Both ways are
timed in turn; prints JSON with the medians of seconds, their ratio, and the lowest cosine between the features.
"""

from __future__ import annotations

import json
import statistics
import time
from typing import Any

import click
import numpy as np
import torch
from PIL import Image
from random_models import filled
from transformers import CLIPImageProcessorPil, CLIPVisionConfig, CLIPVisionModelWithProjection

from consistentid.adapter.identify import IdentityEncoder
from consistentid.files.devices import fast_bfloat16

_VIT_H = CLIPVisionConfig(
    hidden_size=1280,
    intermediate_size=5120,
    num_hidden_layers=32,
    num_attention_heads=16,
    patch_size=14,
    projection_dim=1024,
)


@click.command()
@click.option("--parts", default=5, show_default=True, help="Parts of the face that are seen.")
@click.option("--runs", default=3, show_default=True)
def main(parts: int, runs: int) -> None:
    """Measure and print."""
    unused: Any = None
    cpu = torch.device("cpu")
    dtypes = {"float32": torch.float32, "now": torch.bfloat16 if fast_bfloat16(cpu) else torch.float32}
    encoders = {
        name: IdentityEncoder(
            unused, filled(lambda: CLIPVisionModelWithProjection(_VIT_H), dtype), CLIPImageProcessorPil()
        )
        for name, dtype in dtypes.items()
    }
    noise = np.random.default_rng(0)
    pictures = [Image.fromarray(noise.integers(0, 256, (512, 512, 3), np.uint8)) for _ in range(parts + 1)]
    blank = encoders["now"].features(pictures[:1])  # once for each pipeline
    seconds: dict[str, list[float]] = {name: [] for name in encoders}
    features = {}
    for _ in range(runs):
        for name, encoder in encoders.items():
            if name == "float32":
                encoder._blank = None
            start = time.perf_counter()
            features[name] = encoder.features(pictures)
            seconds[name].append(time.perf_counter() - start)
    a, b = (features[name].flatten(1) for name in encoders)
    medians = {name: round(statistics.median(values), 2) for name, values in seconds.items()}
    report = {
        "pictures": len(pictures),
        "dtype now": str(dtypes["now"]),
        "seconds": medians,
        "times as fast": round(medians["float32"] / medians["now"], 2),
        "lowest cosine": round(float(torch.nn.functional.cosine_similarity(a, b).min()), 5),
        "threads": torch.get_num_threads(),
        "blank": list(blank.shape),
    }
    print(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
