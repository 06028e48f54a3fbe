"""Full-size models through the whole program with random weights: load, identify, sample, save; time and peak memory.

    python benchmarks/full_size.py sd15 --steps 2                                 # on a CPU, float32
    python benchmarks/full_size.py sdxl --device cuda --dtype float16 --steps 50  # needs a GPU
    python benchmarks/full_size.py sdxl --shapes                                  # no weights, no memory: shapes alone
    python benchmarks/full_size.py sd15 --photo ada.jpg --detector scrfd.onnx --parser parser.onnx --show seen.png \
        --width 256 --height 384                                                  # `consistentid generate ada.jpg`

The networks have the sizes of the published ones and lie on disk in the published layouts, so the preset itself is what
runs. The face networks are stand-ins with the published inputs and outputs: a detector that knows where the face of the
drawn photo is, a recogniser that is one random linear map, a BiSeNet whose last layer is fitted to that photo. With
`--photo` detector and parser are real ones, and the command line runs in a process of its own.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import click
import numpy as np
import onnx
import torch
import yaml
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from PIL import Image
from random_models import Base, filled, image_encoder, now, pipeline, unet
from transformers import CLIPImageProcessorPil

from consistentid import ConsistentID, ConsistentIDPipeline
from consistentid.adapter import injection, layouts
from consistentid.drawn.portraits import draw, sample_people, sample_scenes
from consistentid.faces.bisenet import BiSeNet
from consistentid.faces.parsing import FaceParser
from consistentid.files.output import encode_png
from consistentid.files.writing import save_new

INVENTORY = Path(__file__).parent.parent / "tests" / "golden" / "inventory"
CHECKPOINTS = {"sd15": "ConsistentID-v1_sd15_rank128.json", "sdxl": "ConsistentID_SDXL-v1_rank128.json"}
PROMPT = "a person in a red hat on a beach"
SIDE = 512
"""Of the drawn photo."""


def write_all(base: Base, folder: Path) -> dict[str, Path]:
    """Every network of the preset as a file or folder, in half precision; the photo, too."""
    half = torch.float16
    paths = {name: folder / name for name in ("base", "image_encoder")}
    pipeline(base, half).save_pretrained(paths["base"])
    filled(image_encoder, half).save_pretrained(paths["image_encoder"])
    CLIPImageProcessorPil().save_pretrained(paths["image_encoder"])
    paths["adapter"] = folder / "ConsistentID.bin"
    torch.save(released_layout(base, half), paths["adapter"])
    person, scene = sample_people([3], split="test"), sample_scenes([(3, 0)], split="test")
    drawn = draw(person, scene, SIDE)
    paths["photo"] = folder / "photo.png"
    photo = Image.fromarray(drawn.pixels()[0])
    photo.save(paths["photo"])
    labels, landmarks = drawn.labels[0].numpy(), drawn.landmarks[0].numpy()
    paths["parser"] = write_parser(folder / "face_parsing.pth", photo, labels)
    paths["detector"] = write_detector(folder / "det_10g.onnx", labels, landmarks)
    paths["recogniser"] = write_recogniser(folder / "w600k_r50.onnx")
    return paths


def released_layout(base: Base, dtype: torch.dtype) -> dict[str, dict[str, torch.Tensor]]:
    """A checkpoint with the names and shapes of the published one."""
    inventory = json.loads((INVENTORY / CHECKPOINTS[base]).read_text())["state_dict"]
    random = torch.Generator().manual_seed(0)

    def weights(key: str, shape: list[int]) -> torch.Tensor:
        gain = float("norm" in key and key.endswith("weight"))
        return (gain + 0.02 * torch.randn(shape, generator=random)).to(dtype)

    return {module: {key: weights(key, shape) for key, shape in keys.items()} for module, keys in inventory.items()}


@torch.no_grad()
def write_parser(path: Path, photo: Image.Image, labels: NDArray[np.uint8]) -> Path:
    """A BiSeNet with random layers and a last one that tells this photo's labels apart, by least squares."""
    torch.manual_seed(0)
    network = BiSeNet().eval()
    seen: list[torch.Tensor] = []
    hook = network.conv_out.conv.register_forward_hook(lambda _module, _inputs, output: seen.append(output))
    network(FaceParser(network, SIDE).pixels(photo))
    hook.remove()
    features = seen[0][0].flatten(1).T.double()
    step = SIDE // seen[0].shape[-1]
    known = torch.from_numpy(labels[step // 2 :: step, step // 2 :: step].astype(np.int64)).flatten()
    wanted = torch.nn.functional.one_hot(known, 19).double()
    share = wanted.mean(dim=0)[known].rsqrt()[:, None]  # small parts weigh as much as large ones
    weights = torch.linalg.lstsq(features * share, wanted * share).solution.T
    network.conv_out.conv_out.weight.copy_(weights[:, :, None, None])
    torch.save(network.state_dict(), path)
    return path


def write_detector(path: Path, labels: NDArray[np.uint8], landmarks: NDArray[np.float32]) -> Path:
    """Nine outputs for an input of 640 pixels, with one face: where the skin of the drawn photo is."""
    scale = 640 / SIDE
    rows, columns = np.nonzero(np.isin(labels, (1, *range(2, 7), *range(10, 14))))
    box = np.array([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1], np.float32) * scale
    column, row = (int(value) for value in landmarks[2] * scale // 8)
    corner = np.array([column, row], np.float32) * 8
    cell = 2 * (row * (640 // 8) + column)
    outputs = {}
    for kind, width in (("score", 1), ("box", 4), ("points", 10)):
        for stride in (8, 16, 32):
            outputs[f"{kind}{stride}"] = np.zeros((2 * (640 // stride) ** 2, width), np.float32)
    outputs["score8"][cell] = 0.9
    outputs["box8"][cell] = np.concatenate([corner - box[:2], box[2:] - corner]) / 8
    outputs["points8"][cell] = ((landmarks * scale - corner) / 8).ravel()
    nodes = [helper.make_node("Identity", [f"{name}_"], [name]) for name in outputs]
    return save_onnx(
        path, nodes, {f"{name}_": value for name, value in outputs.items()}, [1, 3, 640, 640],
        {name: list(value.shape) for name, value in outputs.items()},
    )  # fmt: skip


def write_recogniser(path: Path) -> Path:
    """(B, 3, 112, 112) -> (B, 512): averages of 8x8 pixels, times a random matrix."""
    weights = np.random.default_rng(0).standard_normal((3 * 14 * 14, 512)).astype(np.float32)
    nodes = [
        helper.make_node("AveragePool", ["input"], ["mosaic"], kernel_shape=[8, 8], strides=[8, 8]),
        helper.make_node("Flatten", ["mosaic"], ["flat"]),
        helper.make_node("MatMul", ["flat", "weights"], ["embedding"]),
    ]
    return save_onnx(path, nodes, {"weights": weights}, ["batch", 3, 112, 112], {"embedding": ["batch", 512]})


def save_onnx(path: Path, nodes: Any, constants: dict[str, Any], taken: list[Any], given: dict[str, list[Any]]) -> Path:
    """An ONNX file of nodes from "input" of one shape to outputs of others."""
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in given.items()]
    tensors = [numpy_helper.from_array(value, name) for name, value in constants.items()]
    source = helper.make_tensor_value_info("input", TensorProto.FLOAT, taken)
    graph = helper.make_graph(nodes, path.stem, [source], values, tensors)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)
    return path


def run(base: Base, folder: Path, device: str, dtype: str, size: tuple[int, int], steps: int) -> dict[str, Any]:
    """The preset with those files, from photo to picture."""
    report: dict[str, Any] = {}

    @contextmanager
    def phase(name: str) -> Iterator[None]:
        start = now(torch.device(device))
        yield
        report[name] = {"seconds": round(now(torch.device(device)) - start, 1), **peak_gigabytes(device)}

    with phase("write the networks"):
        paths = write_all(base, folder)
    photo = paths.pop("photo")
    studio = ConsistentIDPipeline.from_preset(base, device, dtype, **paths)
    with phase("identify, encoders loaded"):
        who = studio.identify(photo)
    with phase("load the base, attach"):
        studio.pipe  # noqa: B018 - loaded when first used
    with phase(f"sample, {steps} steps"):
        out = studio(who, PROMPT, seed=0, num_inference_steps=steps, width=size[0], height=size[1])
    with phase("save"):
        save_new(folder / "portrait.png", encode_png(out.images[0], {"prompt": PROMPT, "ai_generated": True}))
    report["parts seen"] = list(who.visible_parts)
    report["picture"] = list(out.images[0].size)
    return report


def run_command(
    base: Base, folder: Path, photo: Path, detector: Path, parser: Path, size: tuple[int, int], *options: str
) -> dict[str, Any]:
    """`consistentid generate PHOTO` with the preset: seconds of its own time, peak memory, and what it says.

    Args:
        base: name of the preset.
        folder: gets its networks.
        photo: of a person.
        detector: SCRFD or YuNet.
        parser: ONNX of 19 labels, which takes pixels in [-1, 1].
        size: width and height.
        options: more of the command's.
    """
    paths = write_all(base, folder)
    networks = {role: str(paths[role]) for role in ("base", "image_encoder", "adapter")}
    faces = {role: {"kind": "onnx", "path": str(path.resolve())} for role, path in (
        ("detector", detector), ("recogniser", paths["recogniser"]), ("parser", parser),
    )}  # fmt: skip
    faces["parser"]["options"] = {"mean": [0.5] * 3, "std": [0.5] * 3}
    (folder / "preset.yaml").write_text(yaml.safe_dump({"extends": base, **networks, **faces}))
    sides = ["--width", str(size[0]), "--height", str(size[1])]
    line = [sys.executable, "-m", "consistentid", "generate", str(photo), "--preset", str(folder), "--prompt", PROMPT]
    line += ["--num", "1", "--seed", "0", "--out", str(folder / "out"), "--json", *sides, *options]
    done = subprocess.run(line, capture_output=True, text=True)
    if done.returncode:
        raise click.ClickException(done.stderr)
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    (picture,) = json.loads(done.stdout)["pictures"]
    return {
        "seconds": round(used.ru_utime + used.ru_stime, 1),
        "peak GB": round(used.ru_maxrss / 1e6, 2),
        "picture": [picture["width"], picture["height"]],
        "said": done.stderr.splitlines(),
    }


def peak_gigabytes(device: str) -> dict[str, float]:
    """Highest memory of this process so far, and of the GPU."""
    report = {"peak GB": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6, 2)}
    if device.startswith("cuda"):
        report["peak GPU GB"] = round(torch.cuda.max_memory_allocated() / 1e9, 2)
    return report


@torch.no_grad()
def shapes(base: Base, size: tuple[int, int]) -> dict[str, Any]:
    """The published checkpoint's shapes in the adapter, and the adapter in the UNet, computed without values."""
    inventory = json.loads((INVENTORY / CHECKPOINTS[base]).read_text())["state_dict"]
    with torch.device("meta"):
        nested = {m: {k: torch.empty(shape) for k, shape in keys.items()} for m, keys in inventory.items()}
        tensors, _ = layouts.to_ours(nested, CHECKPOINTS[base])
        spec = layouts.released_spec(tensors, base, CHECKPOINTS[base])
        layouts.check(spec, tensors, CHECKPOINTS[base])
        cid, network = ConsistentID(spec), unet(base)
        plain = count(network)
        parts = torch.empty(5, 257, spec.clip_dim)
        tokens = cid.id_tokens(torch.empty(2, spec.id_dim), parts[:2])
        fused = cid.facial_encoder.visual_projection(parts)
        conditions = {"image_embeds": [tokens[:, None]]}
        if base == "sdxl":
            conditions |= {"text_embeds": torch.empty(2, 1280), "time_ids": torch.empty(2, 6)}
        layers, attention = injection.attention_layers(network), "attention."
        parameters = {
            name.removeprefix(attention): torch.nn.Parameter(tensor)
            for name, tensor in tensors.items()
            if name.startswith(attention)
        }
        injection.check_sizes(network, layers, spec, parameters)
        injection.add_id_layers(network, layers, parameters, spec.tokens, ExitStack())
        injection.add_lora(network, layers, parameters, ExitStack())
        latents, text = torch.empty(2, 4, size[1] // 8, size[0] // 8), torch.empty(2, 77, spec.text_dim)
        noise = network(latents, 500, text, added_cond_kwargs=conditions).sample
        return {
            "tensors of the checkpoint": len(tensors),
            "millions of parameters": {
                "unet": plain,
                "layers in the unet": count(network) - plain,
                "image projection": count(cid.image_projection),
                "facial encoder": count(cid.facial_encoder),
            },
            "id tokens": list(tokens.shape),
            "part tokens": list(fused.shape),
            "noise": list(noise.shape),
        }


def count(network: torch.nn.Module) -> float:
    """Millions of parameters."""
    return round(sum(x.numel() for x in network.parameters()) / 1e6, 1)


FILE = click.Path(path_type=Path, exists=True, dir_okay=False)


@click.command()
@click.argument("base", type=click.Choice(["sd15", "sdxl"]))
@click.option("--device", default="cpu", show_default=True)
@click.option("--dtype", default="float32", show_default=True, type=click.Choice(["float32", "float16", "bfloat16"]))
@click.option("--width", type=int, help="Pixels.  [default: the preset's]")
@click.option("--height", type=int, help="Pixels.  [default: the preset's]")
@click.option("--steps", default=2, show_default=True)
@click.option("--shapes", "only_shapes", is_flag=True, help="Compute shapes alone.")
@click.option("--photo", type=FILE, help="Run the command line on this photo, with these two networks:")
@click.option("--detector", type=FILE)
@click.option("--parser", type=FILE, help="Of pixels in [-1, 1].")
@click.option("--show", default="seen.png", show_default=True, help="What was seen of the photo.")
def main(
    base: Base,
    device: str,
    dtype: str,
    width: int | None,
    height: int | None,
    steps: int,
    only_shapes: bool,
    photo: Path | None,
    detector: Path | None,
    parser: Path | None,
    show: str,
) -> None:
    """Print seconds (on a CPU, of the process's own time) and peak memory of each phase."""
    default = (864, 1152) if base == "sdxl" else (512, 768)
    size = width or default[0], height or default[1]
    if only_shapes:
        click.echo(json.dumps(shapes(base, size), indent=1))
        return
    if len({bool(photo), bool(detector), bool(parser)}) > 1:
        raise click.UsageError("--photo, --detector and --parser go together")
    with tempfile.TemporaryDirectory() as folder:
        if photo and detector and parser:
            options = ["--steps", str(steps), "--device", device, "--dtype", dtype, "--show", show]
            report = run_command(base, Path(folder), photo, detector, parser, size, *options)
        else:
            report = run(base, Path(folder), device, dtype, size, steps)
        click.echo(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
