"""Portraits of a given person: one or more photos in, a prompt in, new pictures of that person out.

Names are imported when first used, so that ``import consistentid`` costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from consistentid.adapter.adapter import ConsistentID
    from consistentid.adapter.identity import Identity
    from consistentid.adapter.nn.facial_encoder import FacialEncoder
    from consistentid.adapter.nn.image_projection import ImageProjection
    from consistentid.errors import (
        ArgumentError,
        CancelledError,
        CheckpointError,
        ConsistentIDError,
        DatasetError,
        FaceError,
        ImageError,
        IncompatibleIdentityError,
        InputError,
        NoFaceError,
        PhotographError,
        PipelineError,
        PromptTooLongError,
        SeveralFacesError,
    )
    from consistentid.faces.analyzer import FaceAnalyzer
    from consistentid.faces.face import Face
    from consistentid.pipeline.pipeline import ConsistentIDPipeline
    from consistentid.pipeline.portraits import Portraits
    from consistentid.pipeline.request import Request, Step
    from consistentid.provenance.credentials import Signer
    from consistentid.provenance.marks import Provenance

__version__ = "0.1.0"

_HOME = {
    "ConsistentID": "adapter.adapter",
    "ConsistentIDPipeline": "pipeline.pipeline",
    "Face": "faces.face",
    "FaceAnalyzer": "faces.analyzer",
    "FacialEncoder": "adapter.nn.facial_encoder",
    "Identity": "adapter.identity",
    "ImageProjection": "adapter.nn.image_projection",
    "Portraits": "pipeline.portraits",
    "Provenance": "provenance.marks",
    "Request": "pipeline.request",
    "Signer": "provenance.credentials",
    "Step": "pipeline.request",
} | dict.fromkeys(
    (
        "ArgumentError",
        "CancelledError",
        "CheckpointError",
        "ConsistentIDError",
        "DatasetError",
        "FaceError",
        "ImageError",
        "IncompatibleIdentityError",
        "InputError",
        "NoFaceError",
        "PhotographError",
        "PipelineError",
        "PromptTooLongError",
        "SeveralFacesError",
    ),
    "errors",
)

__all__ = [
    "ArgumentError",
    "CancelledError",
    "CheckpointError",
    "ConsistentID",
    "ConsistentIDError",
    "ConsistentIDPipeline",
    "DatasetError",
    "Face",
    "FaceAnalyzer",
    "FaceError",
    "FacialEncoder",
    "Identity",
    "ImageError",
    "ImageProjection",
    "IncompatibleIdentityError",
    "InputError",
    "NoFaceError",
    "PhotographError",
    "PipelineError",
    "Portraits",
    "PromptTooLongError",
    "Provenance",
    "Request",
    "SeveralFacesError",
    "Signer",
    "Step",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'consistentid' has no attribute {name!r}")
    return getattr(import_module(f"consistentid.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
