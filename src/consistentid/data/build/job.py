"""What is to be built, and what the result depends on."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

from consistentid.errors import InputError
from consistentid.files.weights import fingerprint
from consistentid.presets.network import Network
from consistentid.presets.preset import Preset

REJECTED: Final = "rejected.jsonl"
REPORT: Final = "report.json"
SUMMARY: Final = "summary.html"
STATE: Final = "build"
NOTE: Final = "job.json"


@dataclass(frozen=True)
class Job:
    """What is to be built.

    Attributes:
        photos: folder of raw pictures: one folder a person in it, or all pictures in it.
        out: folder of the data set.
        preset: its face networks are used; a name, YAML file or folder.
        size: side of the pictures, pixels; 0 = 128 where the preset is for drawings, else 512.
        batch: pictures that go through the networks together, and a shard of the work.
        captioner: hub id or folder of a vision-language model; None = the words that the pictures come with: a text
            file beside the picture (first line the picture, second the face), or the records of a data set in the
            folder of the pictures or the one above.
        device: where all networks compute; the best there is by default.

    Raises:
        InputError: a value that is not allowed.
    """

    photos: Path
    out: Path
    preset: str = "drawn"
    size: int = 0
    batch: int = 16
    captioner: str | None = None
    device: str | None = None

    def __post_init__(self) -> None:
        for name, low, high in (("size", 32, 2048), ("batch", 1, 1024)):
            value = getattr(self, name)
            if not low <= value <= high and not (name == "size" and value == 0):
                raise InputError(f"{name}={value} is not allowed; give {low} to {high}")


def check_folders(job: Job) -> None:
    """Makes sure that the data set is not built into the folder of its pictures.

    Raises:
        InputError: it would be.
    """
    photos, out = job.photos.resolve(), job.out.resolve()
    if out == photos or photos in out.parents:
        raise InputError(f"{job.out}: lies in the folder of the pictures; name one outside {job.photos}")


def depends_on(job: Job, preset: Preset) -> dict[str, Any]:
    """What the data set depends on."""
    return {
        "consistentid": version("consistentid"),
        "size": job.size,
        "batch": job.batch,
        "captioner": job.captioner,
        **{role: _named(preset.networks[role]) for role in ("detector", "parser", "recogniser")},
    }


def _named(network: Network) -> str:
    if network.path and network.kind != "insightface":  # a pack is fetched when it is first used
        return fingerprint(network.path)
    return network.path.stem if network.path else f"{network}@{network.revision}" if network.revision else str(network)
