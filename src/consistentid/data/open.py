"""Opening a data set, whatever its layout."""

from __future__ import annotations

from pathlib import Path

from consistentid.data.dataset import Dataset, FolderDataset
from consistentid.data.shards import INDEX, ShardDataset


def open_dataset(path: Path) -> Dataset:
    """The data set in a folder: files with JSON_all.json, or packed shards with index.parquet.

    Raises:
        DatasetError: there is none, or one that is broken.
        InputError: reading shards needs a package that is not installed.
    """
    return ShardDataset(path) if (path / INDEX).exists() else FolderDataset(path)
