"""The compatibility vectors in `golden/`, and the tiny base models they belong to."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Final

GOLDEN: Final = Path(__file__).parent / "golden"
sys.path[:0] = [str(GOLDEN), str(GOLDEN / "inputs")]

VARIANTS: Final = ("micro15", "microxl")
"""Shaped like SD1.5 and like SDXL."""

DIM: Final = 128
"""Width of their cross-attention."""

WIDTH: Final = 64
"""Width of their image encoders' hidden states."""

ID_DIM: Final = 512
"""Width of a face embedding."""
