"""The threshold at which two faces are taken for one person's."""

from __future__ import annotations

import numpy as np
import pytest

from consistentid.faces.verification import accepted, impostor_threshold


def test_the_threshold_accepts_the_wanted_share_of_impostors() -> None:
    wrong = np.random.default_rng(0).normal(0, 0.2, (40, 200))
    wrong[0, 0] = np.nan
    for far in (0.05, 0.01, 0.001):
        share = accepted(wrong, impostor_threshold(wrong, far)).mean()
        assert share == pytest.approx(far, abs=0.0005)


def test_too_few_impostors_make_no_threshold_and_no_rate() -> None:
    threshold = impostor_threshold(np.linspace(-1, 1, 500), far=0.001)
    assert np.isnan(threshold)
    assert np.isnan(accepted(np.array([0.9]), threshold)).all()
