"""Reading data sets: the same samples from a folder of files and from packed shards, in an order that can be resumed.

```python
data = open_dataset("people")  # see `consistentid.data.open`: a folder with JSON_all.json, or with index.parquet
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
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from consistentid.data.records import Record, read_records
from consistentid.errors import DatasetError, ImageError, first_line
from consistentid.files.images import MAX_BYTES, to_rgb
from consistentid.files.reading import read_bytes

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

    def __getitem__(self, index: int) -> Sample:
        """One sample.

        Raises:
            DatasetError: its files are missing, broken or do not fit one another; the file is named.
            IndexError: there is no such sample.
        """
        record = self.record(index)
        picture = read_picture(self.content(index, "image"), self.name(index, "image"))
        labels = read_labels(self.content(index, "mask"), self.name(index, "mask"))
        embedding = None
        if record.embedding is not None:
            embedding = read_embedding(self.content(index, "embedding"), self.name(index, "embedding"))
            embedding = embedding / max(float(np.linalg.norm(embedding)), float(np.finfo(np.float32).tiny))
        if labels.shape != picture.shape[:2]:
            raise DatasetError(
                f"{self.name(index, 'mask')}: has {_pixels(labels)} pixels and its picture has {_pixels(picture)}; "
                "run 'consistentid dataset check' for all faults of the data set"
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

    @abstractmethod
    def record(self, index: int) -> Record:
        """What is written about a sample."""

    @abstractmethod
    def content(self, index: int, kind: str) -> bytes:
        """The file of a sample of this kind: "image", "mask" or "embedding".

        Raises:
            DatasetError: it cannot be read.
        """

    @abstractmethod
    def name(self, index: int, kind: str) -> str:
        """What that file is called, for messages."""

    @property
    def groups(self) -> list[range]:
        """Samples that lie together on disk; `stream` stays within one before it goes to the next."""
        return [range(len(self))]


class FolderDataset(Dataset):
    """The layout of `consistentid.data.records`.

    Args:
        folder: holds JSON_all.json.
        records: those to take; by default all that JSON_all.json lists.

    Raises:
        DatasetError: it holds none, or one that is broken.
    """

    def __init__(self, folder: Path, records: Sequence[Record] | None = None) -> None:
        self.folder = folder
        self.records = read_records(folder) if records is None else records
        self.keys = [record.key for record in self.records]
        self.people = [record.person for record in self.records]

    def record(self, index: int) -> Record:
        """See `Dataset.record`."""
        return self.records[index]

    def content(self, index: int, kind: str) -> bytes:
        """See `Dataset.content`."""
        file = self.records[index].files(self.folder)[kind]
        try:
            return read_bytes(file, MAX_BYTES, error=DatasetError)
        except DatasetError as error:
            raise DatasetError(f"{error}; run 'consistentid dataset check'") from None

    def name(self, index: int, kind: str) -> str:
        """See `Dataset.name`."""
        return str(self.records[index].files(self.folder)[kind])


def stream(
    dataset: Dataset, seed: int, start: Position = (0, 0), rank: int = 0, world: int = 1
) -> Iterator[tuple[Position, Sample]]:
    """Samples without end, each epoch in an order of its own that depends on the seed and the epoch alone.

    Args:
        dataset: what to read; not empty.
        seed: of the order.
        start: where to go on: the position that came with the last sample that was used.
        rank, world: of `world` readers, the one of this `rank` gets every `world`-th sample, across epochs; the
            position counts those of all readers, so that it stays right when their number changes.

    Yields:
        The position after the sample, and the sample.
    """
    epoch, index = start
    while True:
        for place, chosen in enumerate(epoch_order(dataset, seed, epoch)[index:].tolist(), index):
            if (epoch * len(dataset) + place) % world == rank:
                yield (epoch, place + 1), dataset[chosen]
        epoch, index = epoch + 1, 0


def epoch_order(dataset: Dataset, seed: int, epoch: int) -> NDArray[np.int64]:
    """(len(dataset),) every index once: groups in random order, and within each its samples in random order."""
    random = np.random.default_rng((seed, epoch))
    groups = dataset.groups
    return np.concatenate([random.permutation(np.array(groups[i])) for i in random.permutation(len(groups))])


def read_picture(content: bytes, name: str) -> NDArray[np.uint8]:
    """(H, W, 3) uint8 RGB of a picture file.

    Raises:
        DatasetError: it is broken; `name` is the file's.
    """
    try:
        with Image.open(io.BytesIO(content)) as image:
            return np.asarray(to_rgb(image, name))
    except ImageError as error:
        raise DatasetError(str(error)) from None
    except Exception as error:  # a broken header makes Pillow's plugins raise nearly anything
        raise DatasetError(f"{name}: is no picture that can be read ({first_line(error)}); write it again") from None


def read_labels(content: bytes, name: str) -> NDArray[np.uint8]:
    """(H, W) uint8 labels of a mask file: 8-bit grey, or colours that are all grey.

    Raises:
        DatasetError: it is broken, or no mask; `name` is the file's.
    """
    try:
        with Image.open(io.BytesIO(content)) as image:
            mode, labels = image.mode, np.asarray(image)
    except Exception as error:  # as above
        raise DatasetError(f"{name}: is no mask that can be read ({first_line(error)}); write it again") from None
    if mode in ("RGB", "RGBA") and (labels[..., :3] == labels[..., :1]).all():
        labels = labels[..., 0]
    elif mode not in ("L", "P"):
        raise DatasetError(f"{name}: is a picture of mode {mode}; a mask has one 8-bit label a pixel, 0 to 18")
    return np.ascontiguousarray(labels)


def read_embedding(content: bytes, name: str) -> NDArray[np.float32]:
    """(D,) float32 of a torch file with a (1, D) or (D,) tensor, as it is: not normalised.

    Raises:
        DatasetError: it is broken, or holds something else; `name` is the file's.
    """
    try:
        loaded = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except Exception as error:  # a broken file makes the unpickler raise nearly anything
        raise DatasetError(
            f"{name}: is no face embedding that can be read ({first_line(error)}); write it again"
        ) from None
    found = tuple(loaded.shape) if isinstance(loaded, torch.Tensor) else type(loaded).__name__
    if not isinstance(loaded, torch.Tensor) or loaded.ndim == 0 or loaded.numel() != loaded.shape[-1]:
        raise DatasetError(f"{name}: holds {found}; a face embedding is a tensor of (1, 512)")
    embedding: NDArray[np.float32] = loaded.detach().float().reshape(-1).numpy()
    return embedding


def _pixels(array: NDArray[np.uint8]) -> str:
    return f"{array.shape[1]}x{array.shape[0]}"
