"""All networks of a preset, fetched before they are needed: the facts behind `consistentid fetch`."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from consistentid.errors import CheckpointError
from consistentid.files.documents import MAX_CONFIG_BYTES
from consistentid.files.reading import read_json
from consistentid.presets.download import fetch_from_hub, fetching
from consistentid.presets.network import Network
from consistentid.presets.preset import Preset
from consistentid.presets.read import load_preset

INDEX = "model_index.json"
"""File by which a repository of a whole pipeline is known."""

_SUFFIXES = (".safetensors", ".bin", ".onnx", ".pt", ".pth", ".ckpt", ".tflite")
_WEIGHTS = re.compile(
    r"(model|pytorch_model|diffusion_pytorch_model|pytorch_lora_weights)(?P<variant>\.[a-z]\w*)?(-\d+-of-\d+)?"
    r"(?P<later>\.[a-z]\w*)?\.(?P<kind>safetensors|bin)"
)
_SETTINGS = (".json", ".txt", ".model")


def fetch_networks(preset: Preset) -> Iterator[tuple[str, Network, Path | None]]:
    """Fetches what is missing of a preset, in the order of its use, and holds what is there against its sums.

    What is finished stays when it stops, and the next call goes on in the middle of a file.

    Yields:
        Role, network and its place on this machine, each when it is there; None = it needs no files.

    Raises:
        CheckpointError: one cannot be fetched or is damaged; the message says what to do, and "offline" where the
            network is the reason.
    """
    done: dict[Network, Path | None] = {}
    for role, network in preset.networks.items():
        if network not in done:
            done[network] = _fetch(network)
            network.check()
        if role == "base" and network.single_file:  # it holds weights alone
            families = [network.config] if network.config else [load_preset(x).base for x in ("sd15", "sdxl")]
            for family in families:
                family.fetch_config()
        yield role, network, done[network]


def _fetch(network: Network) -> Path | None:
    if network.path or len(network.files) == 1:
        return network.fetch()
    if not network.repo:
        return None
    if INDEX in network.files:
        return _fetch_pipeline(network)
    if network.files:
        return network.fetch()
    names = _listed(network)
    if INDEX in names:
        return _fetch_pipeline(network)
    places = [
        fetch_from_hub(network.repo, name, network.revision)
        for name in choose(names, network.variant)
        if "/" not in name
    ]
    return places[0].parent if places else None


def _fetch_pipeline(network: Network) -> Path:
    """Large files so that they can be gone on with; then what diffusers itself thinks it needs."""
    if (found := network.find()) and not lacking(found):
        return found
    from diffusers import DiffusionPipeline  # seconds that nobody waits for who has it all

    index = fetch_from_hub(network.repo, INDEX, network.revision)
    parts = _parts(index)
    names = [name for name in _listed(network) if name.count("/") == 1 and name.partition("/")[0] in parts]
    for name in choose(names, network.variant):
        fetch_from_hub(network.repo, name, network.revision)
    source, options = network.pretrained
    with fetching(str(network)):
        return Path(DiffusionPipeline.download(source, **options))


def lacking(folder: Path) -> list[str]:
    """Parts of a pipeline of diffusers that its index names and that are not there, or without weights."""
    if not (folder / INDEX).is_file():
        return []
    return [
        part.name
        for part in (folder / name for name in _parts(folder / INDEX))
        if not part.is_dir()
        or ((part / "config.json").exists() and not any(_WEIGHTS.fullmatch(file.name) for file in part.iterdir()))
    ]


def weightless(path: Path) -> bool:
    """Whether it is a folder in which, at any depth, no file has a name of weights."""
    return path.is_dir() and not any(file.suffix in _SUFFIXES and file.is_file() for file in path.rglob("*"))


def _parts(index: Path) -> list[str]:
    """The parts of a pipeline that its index names."""
    content = read_json(index, MAX_CONFIG_BYTES, what="pipeline's index", error=CheckpointError, kind=dict)
    return [name for name, part in content.items() if isinstance(part, list) and part and part[0]]


def _listed(network: Network) -> Sequence[str]:
    from huggingface_hub import HfApi

    with fetching(str(network)):
        return HfApi().list_repo_files(network.repo, revision=network.revision)


def choose(names: Sequence[str], variant: str | None) -> list[str]:
    """The files of a repository that diffusers or transformers load: settings, and one set of weights per folder.

    Safetensors if each folder with weights has them, else pickles; of the variant where there is one.
    """
    weights: dict[str, list[re.Match[str]]] = {}
    chosen = []
    for name in names:
        folder, _, file = name.rpartition("/")
        if match := _WEIGHTS.fullmatch(file):
            weights.setdefault(folder, []).append(match)
        elif file.endswith(_SETTINGS):
            chosen.append(name)
    safe = all(any(match["kind"] == "safetensors" for match in matches) for matches in weights.values())
    for folder, matches in weights.items():
        kind = [match for match in matches if match["kind"] == ("safetensors" if safe else "bin")]
        special = [match for match in kind if variant and f".{variant}" in (match["variant"], match["later"])]
        plain = [match for match in kind if not match["variant"] and not match["later"]]
        by_name: dict[str, list[str]] = {}
        for match in special or plain:  # a library's own name first, where a repository holds the same under two
            by_name.setdefault(match[1], []).append(match[0])
        files = next((by_name[x] for x in ("model", "diffusion_pytorch_model") if x in by_name), None)
        files = files or next(iter(by_name.values()), [])
        chosen += [f"{folder}/{file}" if folder else file for file in files]
    return sorted(chosen, key=lambda name: (not name.endswith(_SETTINGS), name))
