"""The running average of the weights that a training shows and ships."""

from __future__ import annotations

from collections.abc import Sequence

from diffusers.training_utils import EMAModel
from torch import nn


def averages(parameters: Sequence[nn.Parameter], decay: float) -> EMAModel | None:
    """Of these parameters, warmed up; None for a decay of 0.

    An accelerator averages all of them in a few operations. On a processor these round by where weights lie in memory,
    and a run that goes on would not equal one that was not stopped.
    """
    if not decay:
        return None
    foreach = parameters[0].device.type != "cpu"
    return EMAModel(parameters, decay=decay, use_ema_warmup=True, power=0.75, foreach=foreach)
