"""Put the trained networks together as the preset that ships inside the package."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import torch
import yaml
from diffusers import StableDiffusionPipeline

from consistentid.adapter.store import CONFIG_NAME, WEIGHTS_NAME
from consistentid.drawn.autoencoder import ConvAutoencoderKL
from consistentid.errors import CheckpointError
from consistentid.files.config import plain
from consistentid.files.weights import fingerprint
from consistentid.files.writing import replacing_folder
from consistentid.presets.loading import TEXT_PROJECTION
from consistentid.training.drawn.loop import REPORT, stage_folder
from consistentid.training.drawn.recipe import Recipe
from consistentid.training.drawn.stages import times

LIMIT = 48_000_000  # bytes of everything that ships
_ONNX = ("recogniser.onnx", "judge.onnx", "scene_reader.onnx", "parser.onnx")


def package(recipe: Recipe, out: Path, _device: torch.device) -> None:
    """Write ``out/drawn``: all networks of the preset, adapter included, and the reports of their training.

    Raises:
        CheckpointError: something is missing, or all together is too large to ship.
    """
    needed = ["base", "vae", "image_encoder", *_ONNX, "adapter"]
    if missing := [name for name in needed if not (out / name).exists()]:
        raise CheckpointError(f"{out} has no {', '.join(missing)} yet; train them first")
    with replacing_folder(out / "drawn") as folder:
        _put_together(recipe, out, folder)
        size = sum(p.stat().st_size for p in folder.rglob("*") if p.is_file())
        if size > LIMIT:
            raise CheckpointError(
                f"{out / 'drawn'} has {size / 1e6:.1f} MB, more than the {LIMIT / 1e6:.0f} MB that may ship"
            )
    print(f"{out / 'drawn'}: {size / 1e6:.1f} MB")


def _put_together(recipe: Recipe, out: Path, folder: Path) -> None:
    # The adapter's training may have trained the base along.
    base = next(path for path in (out / "adapter" / "base", out / "base") if path.exists())
    projection = base / "text_encoder" / TEXT_PROJECTION
    if not projection.exists():
        raise CheckpointError(f"{projection} is missing: an older version trained that base; train it once more")
    pipe = StableDiffusionPipeline.from_pretrained(base, dtype=torch.float16)
    pipe.vae = ConvAutoencoderKL.from_pretrained(out / "vae", dtype=torch.float16)  # its decoder may be younger
    pipe.save_pretrained(folder / "base")
    for file in folder.rglob("*.json"):  # where it was trained is nobody's business
        content = json.loads(file.read_text())
        if content.pop("_name_or_path", None):
            file.write_text(json.dumps(content, indent=2) + "\n")
    shutil.copy(projection, folder / "base/text_encoder")
    shutil.copytree(out / "image_encoder", folder / "image_encoder")
    (folder / "adapter").mkdir()
    for name in (CONFIG_NAME, WEIGHTS_NAME):
        shutil.copy(out / "adapter" / name, folder / "adapter")
    for name in _ONNX:
        shutil.copy(out / name, folder / name)
    config = json.loads((folder / "adapter" / CONFIG_NAME).read_text())
    shipped = {"recogniser": "recogniser.onnx", "image_encoder": "image_encoder", "parser": "parser.onnx"}
    config["networks"] = {role: fingerprint(folder / name) for role, name in shipped.items()}
    (folder / "adapter" / CONFIG_NAME).write_text(json.dumps(config, indent=2) + "\n")
    reports = times(out)
    for name in reports:
        report = stage_folder(out, name) / REPORT
        if report.exists():
            reports[name] = json.loads(report.read_text()) | reports[name]
    (folder / "reports.json").write_text(json.dumps(reports, indent=1) + "\n")
    shutil.copy(recipe.path, folder / "recipe.yaml")
    if recipe.changes or "extends" in yaml.safe_load(recipe.path.read_text()):  # as a whole, wherever it came from
        (folder / "recipe.yaml").write_text(yaml.safe_dump(plain(recipe.content), sort_keys=False))
