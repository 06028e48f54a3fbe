"""Reading data sets: the same samples from a folder of files and from packed shards, in an order that can be resumed.

```python
data = open_dataset("people")  # a folder with JSON_all.json, or with index.parquet
data[3].picture, data[3].labels
for position, sample in stream(data, seed=7, start=(2, 500)):  # goes on in the third round, after 500 samples
    ...
```
"""

from __future__ import annotations

import io
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from consistentid.data.records import Record, read_records
from consistentid.errors import DatasetError, ImageError
from consistentid.images import load_image

Position = tuple[int, int]
"""(epoch, samples of it that are done)."""


@dataclass(frozen=True, eq=False)
class Sample:
    """One picture of a data set and what is known of it.

    Attributes:
        key: names the sample in its data set: the path of the picture without suffix, "/" between folders.
        picture: (H, W, 3) uint8 RGB.
        labels: (H, W) uint8 CelebAMask-HQ labels.
        caption: what the picture shows.
        face_caption: a sentence about the parts of the face.
        embedding: (512,) float32 of unit length, whose face it is; None where the data set has none.
        person: the same for all pictures of one person; None where it is not known.
        landmarks: (5, 2) float32 pixels, in the order of `Detection.landmarks`; None where the data set has none.
    """

    key: str
    picture: NDArray[np.uint8]
    labels: NDArray[np.uint8]
    caption: str
    face_caption: str
    embedding: NDArray[np.float32] | None
    person: str | None
    landmarks: NDArray[np.float32] | None


class Dataset(ABC):
    """Samples by index, as torch's map-style data sets have it; can be sent to the workers of a `DataLoader`.

    Attributes:
        keys: of all samples.
        people: of all samples; None where a person is not known.
    """

    keys: Sequence[str]
    people: Sequence[str | None]

    def __len__(self) -> int:
        return len(self.keys)

    @abstractmethod
    def __getitem__(self, index: int) -> Sample:
        """One sample.

        Raises:
            DatasetError: its files are missing, broken or do not fit one another; the file is named.
            IndexError: there is no such sample.
        """

    @property
    def groups(self) -> list[range]:
        """Samples that lie together on disk; `stream` stays within one before it goes to the next."""
        return [range(len(self))]


class FolderDataset(Dataset):
    """The layout of `consistentid.data.records`.

    Args:
        folder: holds JSON_all.json.

    Raises:
        DatasetError: it holds none, or one that is broken.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.records = read_records(folder)
        self.keys = [record.key for record in self.records]
        self.people = [record.person for record in self.records]

    def __getitem__(self, index: int) -> Sample:
        record = self.records[index]
        files = record.files(self.folder)
        picture = np.asarray(_opened(files["image"]))
        labels = read_labels(files["mask"])
        embedding = read_embedding(files["embedding"]) if "embedding" in files else None
        return assemble(record, picture, labels, embedding, str(files["mask"]))


def open_dataset(path: Path) -> Dataset:
    """The data set in a folder.

    Raises:
        DatasetError: there is none, or one that is broken.
    """
    return FolderDataset(path)


def stream(
    dataset: Dataset, seed: int, start: Position = (0, 0), rank: int = 0, world: int = 1
) -> Iterator[tuple[Position, Sample]]:
    """Samples without end, each epoch in an order of its own that depends on the seed and the epoch alone.

    Args:
        dataset: what to read; not empty.
        seed: of the order.
        start: where to go on: the position that came with the last sample that was used.
        rank, world: of `world` readers, the one of this `rank` gets every `world`-th sample; the position counts those
            of all readers, so that it stays right when their number changes.

    Yields:
        The position after the sample, and the sample.
    """
    epoch, index = start
    while True:
        for place, chosen in enumerate(epoch_order(dataset, seed, epoch)[index:].tolist(), index):
            if place % world == rank:
                yield (epoch, place + 1), dataset[chosen]
        epoch, index = epoch + 1, 0


def epoch_order(dataset: Dataset, seed: int, epoch: int) -> NDArray[np.int64]:
    """(len(dataset),) every index once: groups in random order, and within each its samples in random order."""
    random = np.random.default_rng((seed, epoch))
    groups = dataset.groups
    return np.concatenate([random.permutation(np.array(groups[i])) for i in random.permutation(len(groups))])


def assemble(
    record: Record,
    picture: NDArray[np.uint8],
    labels: NDArray[np.uint8],
    embedding: NDArray[np.float32] | None,
    name: str,
) -> Sample:
    """A sample of its decoded files.

    Raises:
        DatasetError: labels of another size than the picture; `name` is theirs.
    """
    if labels.shape != picture.shape[:2]:
        raise DatasetError(
            f"{name}: has {labels.shape[1]}x{labels.shape[0]} pixels and its picture has "
            f"{picture.shape[1]}x{picture.shape[0]}; run 'consistentid dataset check' for all faults of the data set"
        )
    marks: Any = record.extra.get("landmarks")
    return Sample(
        key=record.key,
        picture=picture,
        labels=labels,
        caption=record.caption,
        face_caption=record.face_caption,
        embedding=embedding,
        person=record.person,
        landmarks=None if marks is None else np.array(marks, np.float32).reshape(5, 2),
    )


def read_labels(file: Path | io.BytesIO) -> NDArray[np.uint8]:
    """(H, W) uint8 labels of a mask: single-channel, or one whose channels are equal.

    Raises:
        DatasetError: it is missing, broken, or a coloured picture.
    """
    try:
        with Image.open(file) as image:
            if image.mode not in ("L", "P", "RGB", "RGBA"):
                raise DatasetError(f"{file}: is a mask of mode {image.mode}; labels are 8-bit greyscale")
            labels = np.asarray(image)
    except FileNotFoundError:
        raise DatasetError(f"{file}: no such file; run 'consistentid dataset check'") from None
    except DatasetError:
        raise
    except Exception as error:  # broken files make Pillow raise nearly anything
        raise DatasetError(f"{file}: is no mask that can be read ({error}); write it again") from None
    if labels.ndim == 3:
        if (labels[..., :3] != labels[..., :1]).any():
            raise DatasetError(f"{file}: is a coloured picture; a mask holds labels, 0 to 18, in grey")
        labels = labels[..., 0]
    return np.ascontiguousarray(labels)


def read_embedding(file: Path | io.BytesIO) -> NDArray[np.float32]:
    """(D,) float32 of a torch file with a (1, D) or (D,) tensor, as it is: not normalised here.

    Raises:
        DatasetError: it is missing, broken, or holds something else.
    """
    try:
        loaded = torch.load(file, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise DatasetError(f"{file}: no such file; run 'consistentid dataset check'") from None
    except (OSError, UnpicklingError, RuntimeError, EOFError, ValueError, KeyError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise DatasetError(f"{file}: is no face embedding that can be read ({reason}); write it again") from None
    if not isinstance(loaded, torch.Tensor) or loaded.numel() != loaded.shape[-1:].numel():
        raise DatasetError(f"{file}: holds {_kind(loaded)}; a face embedding is a (1, 512) tensor")
    embedding: NDArray[np.float32] = loaded.detach().float().reshape(-1).numpy()
    return embedding


def _kind(loaded: Any) -> str:
    return f"a tensor of {tuple(loaded.shape)}" if isinstance(loaded, torch.Tensor) else f"a {type(loaded).__name__}"


def _opened(file: Path) -> Image.Image:
    try:
        return load_image(file)
    except ImageError as error:
        raise DatasetError(str(error)) from None
