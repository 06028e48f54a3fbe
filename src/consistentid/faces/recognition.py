"""Whose face it is: recognisers of the ArcFace kind from ONNX files."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from consistentid.errors import CheckpointError
from consistentid.faces.alignment import SIZE, align
from consistentid.faces.onnx import open_session


class OnnxRecogniser:
    """A recogniser whose network takes (B, 3, 112, 112) RGB in [-1, 1] and gives (B, 512), such as w600k_r50.

    Args:
        path: ONNX file.
        providers: onnxruntime execution providers, in order of preference; see `onnx_providers`.

    Raises:
        CheckpointError: the file is missing, broken, or a network of another kind.
    """

    def __init__(self, path: str | os.PathLike[str], providers: Sequence[Any] = ("CPUExecutionProvider",)) -> None:
        self._session = open_session(path, providers)
        inputs, outputs = self._session.get_inputs(), self._session.get_outputs()
        shapes = [node.shape for node in (*inputs, *outputs)]
        if len(inputs) != 1 or len(outputs) != 1 or shapes[0][1:] != [3, SIZE, SIZE] or len(shapes[1]) != 2:
            raise CheckpointError(
                f"{path} is not a face recogniser: it maps {shapes[: len(inputs)]} to {shapes[len(inputs) :]}, "
                f"needed is (B, 3, {SIZE}, {SIZE}) to (B, D)"
            )
        self._input = inputs[0].name
        self._path = path
        width = shapes[1][1]
        if not isinstance(width, int):
            width = self._session.run(None, {self._input: np.zeros((1, 3, SIZE, SIZE), np.float32)})[0].shape[1]
        self.width: int = width
        """D, of its embeddings."""

    def embed(self, image: Image.Image, landmarks: NDArray[np.float32]) -> NDArray[np.float32]:
        """(D,) float32 of unit length for the face with these (5, 2) landmarks in an RGB picture."""
        embedding: NDArray[np.float32] = self.embed_batch([image], [landmarks])[0]
        return embedding

    def embed_batch(
        self, images: Sequence[Image.Image], landmarks: Sequence[NDArray[np.float32]]
    ) -> NDArray[np.float32]:
        """(B, D) float32 of unit length, one face of each picture, by one run of the network."""
        faces = [np.asarray(align(*face), np.float32) for face in zip(images, landmarks, strict=True)]
        pixels = np.stack(faces).transpose(0, 3, 1, 2) / np.float32(127.5) - np.float32(1)
        embeddings: NDArray[np.float32] = self._session.run(None, {self._input: pixels})[0].astype(np.float32)
        if not np.isfinite(embeddings).all():
            raise CheckpointError(f"{self._path} computes values that are not finite; get the file again")
        embeddings /= np.linalg.norm(embeddings, axis=1, keepdims=True).clip(np.finfo(np.float32).tiny)
        return embeddings
