"""One network of a preset: where its weights lie and how they get here."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from consistentid.errors import CheckpointError, InputError
from consistentid.presets.download import check_sums, fetch_archive, fetch_from_hub, fetching

_PACKS = "https://github.com/deepinsight/insightface/releases/download/v0.7"


@dataclass(frozen=True)
class Network:
    """One network of a preset: where its weights lie, and what is worth knowing before they are fetched.

    Attributes:
        kind: which implementation reads it, where a role has several.
        path: a file or folder on this machine; a file of kind "insightface" is of a model pack, ROOT/models/PACK/FILE,
            which is fetched whole, or
        repo: a repository of the Hugging Face hub, with
        revision: the commit that was tested,
        variant: "fp16" where the repository has smaller weights of that name, and
        files: one file that is all of it, or those by which a repository used as a whole is known, the weights last.
        url: address of a model pack, a ZIP archive, by default where the insightface library has its packs.
        sha256: of a single file, where it is known.
        megabytes: what has to be fetched, roughly.
        parameters: millions of them, of each of its parts, where the weights are not here to be counted.
        licence: name of the licence, and what it forbids.
        config: of a base that is one file: a base of its family in diffusers' layout, of which all but the weights is
            used. By default that of the preset `sd15` or `sdxl`.
        options: how its implementation reads it, where files do not say; of a parser of kind "onnx" `size`, `mean`,
            `std` and `labels`, see `FaceParser.onnx`.
    """

    kind: str = ""
    path: Path | None = None
    repo: str = ""
    revision: str | None = None
    variant: str | None = None
    files: tuple[str, ...] = ()
    url: str = ""
    sha256: str = ""
    megabytes: int = 0
    parameters: tuple[float, ...] = ()
    licence: str = ""
    config: Network | None = None
    options: Mapping[str, Any] = field(default_factory=dict, hash=False)

    @classmethod
    def from_text(cls, text: str) -> dict[str, str]:
        """What a text in the place of a mapping stands for: a path begins with ".", "/" or "~", else it is a repo."""
        return {"path" if text.startswith((".", "/", "~")) else "repo": text}

    def __str__(self) -> str:
        if self.path:
            return str(self.path)
        return f"{self.repo}/{self.files[0]}" if len(self.files) == 1 else self.repo or self.kind

    @property
    def single_file(self) -> bool:
        """Whether it is one file, not a folder or a repository used as a whole."""
        return self.path.is_file() if self.path else len(self.files) == 1

    def find(self) -> Path | None:
        """Its file or folder on this machine, or None; nothing is fetched."""
        if self.path:
            return self.path if self.path.exists() else None
        if not self.repo or not self.files:
            return None
        from huggingface_hub import try_to_load_from_cache

        found = [try_to_load_from_cache(self.repo, name, revision=self.revision) for name in self.files]
        if not all(isinstance(name, str) for name in found):
            return None
        first = Path(str(found[0]))
        return first if len(self.files) == 1 else first.parents[self.files[0].count("/")]

    def fetch(self) -> Path:
        """The file or folder on this machine, after fetching a single file or a model pack if need be.

        Raises:
            CheckpointError: it is missing and cannot be fetched, or a model pack's folder is there without it.
        """
        if present := self.find():
            return present
        if self.path and self.kind == "insightface":
            pack = self.path.parent
            if broken := self.incomplete():
                raise CheckpointError(broken)
            fetch_archive(self.url or f"{_PACKS}/{pack.name}.zip", pack)
            if broken := self.incomplete():
                raise CheckpointError(broken)
            self.check()
            return self.path
        if self.path:
            raise CheckpointError(
                f"{self.path}: no such weights; correct the preset's paths or install the package again"
            )
        if len(self.files) > 1:
            names = [fetch_from_hub(self.repo, name, self.revision) for name in self.files]
            return names[0].parents[self.files[0].count("/")]
        return fetch_from_hub(self.repo, self.files[0], self.revision)

    def incomplete(self) -> str:
        """Says what to delete where a model pack was unpacked by half; else nothing."""
        if self.kind != "insightface" or not self.path or self.path.exists() or not self.path.parent.is_dir():
            return ""
        return (
            f"{self.path.parent}: is incomplete, it lacks {self.path.name}; delete that folder, and it is fetched again"
        )

    def check(self) -> None:
        """Holds its files on this machine, if there are any, against the sums that are known of them.

        Raises:
            CheckpointError: one is damaged; the message says what to delete.
        """
        if found := self.find():
            delete = found.parent if self.kind == "insightface" else None
            check_sums(found, self.sha256 if self.single_file else "", delete)

    def fetch_config(self) -> Path:
        """Its folder on this machine, after fetching all but the weights through huggingface_hub if need be.

        Raises:
            CheckpointError: it is missing and cannot be fetched.
        """
        if self.path:
            return self.fetch()
        from huggingface_hub import snapshot_download

        with fetching(str(self)):
            return Path(snapshot_download(self.repo, revision=self.revision, allow_patterns=["*.json", "*.txt"]))

    @property
    def pretrained(self) -> tuple[str, dict[str, str]]:
        """First argument and the others for a `from_pretrained` of diffusers or transformers, which then fetches it."""
        chosen = {"revision": self.revision, "variant": self.variant}
        source = str(self.fetch()) if self.path else self.repo
        return source, {name: value for name, value in chosen.items() if value}


@dataclass(frozen=True)
class Lora(Network):
    """A LoRA for the base, beside the adapter's own.

    Attributes:
        scale: its strength; 1 = as trained.
    """

    scale: float = 1.0

    def __post_init__(self) -> None:
        if not isinstance(self.scale, (int, float)) or not math.isfinite(self.scale):
            raise InputError(f"lora {self}: scale={self.scale!r} is not allowed; give a finite number, 1 = as trained")


def lora_named(source: str) -> Lora:
    """What ``path``, ``owner/name`` or ``owner/name/file`` names, each with ``:scale`` behind it if it is not 1.

    Raises:
        InputError: it names nothing.
    """
    place, _, scale = source.rpartition(":")
    try:
        strength = float(scale) if place else 1.0
    except ValueError:  # a colon of the path
        place, strength = "", 1.0
    found = network_named(place or source, Path.cwd(), f"lora={source}")
    return Lora(path=found.path, repo=found.repo, files=found.files, scale=strength)


def network_named(source: str, folder: Path, what: str) -> Network:
    """What a path within `folder`, ``owner/name`` or ``owner/name/file`` of the hub names; `what` is for the message.

    Raises:
        InputError: it names nothing.
    """
    path = folder / Path(source).expanduser()
    if path.exists():
        return Network(path=path.resolve())
    parts = source.split("/")
    if len(parts) < 2 or not all(parts) or parts[0] in (".", "..", "~"):
        raise InputError(f"{what}: no such file or folder; give a path, owner/name, or owner/name/file of the hub")
    return Network(repo="/".join(parts[:2]), files=("/".join(parts[2:]),) if parts[2:] else ())
