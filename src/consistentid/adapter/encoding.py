"""What the adapter asks of a pipeline: whether it can be served, how it reads text, whether guidance is on."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Sequence
from typing import Any, NamedTuple

from torch import Tensor

from consistentid.adapter.prompt import Count
from consistentid.errors import PipelineError

_ARGUMENTS = (
    "prompt_embeds",
    "ip_adapter_image_embeds",
    "guidance_scale",
    "callback_on_step_end",
    "callback_on_step_end_tensor_inputs",
)


class Encoded(NamedTuple):
    """Text embeddings of B prompts.

    Attributes:
        text: (B, T, D).
        negative: (B, T, D), under guidance.
        pooled: (B, E), SDXL only.
        negative_pooled: (B, E), SDXL under guidance.
    """

    text: Tensor
    negative: Tensor | None
    pooled: Tensor | None
    negative_pooled: Tensor | None


def check_pipeline(pipe: Any) -> None:
    """Makes sure that a pipeline has all that the adapter needs.

    Raises:
        PipelineError: it has not; the message says what is missing.
    """
    name = type(pipe).__name__
    parameters = inspect.signature(type(pipe).__call__).parameters
    if missing := [argument for argument in _ARGUMENTS if argument not in parameters]:
        raise PipelineError(
            f"{name} does not take {', '.join(missing)}, so identity cannot be added to it natively;"
            " use a text-to-image, img2img, inpaint or ControlNet pipeline of the SD1.5 or SDXL family"
        )
    if "image_guidance_scale" in parameters:
        raise PipelineError(f"{name} guides by image and text at once, which the adapter was not trained for")
    if not hasattr(getattr(pipe, "unet", None), "load_lora_adapter"):
        raise PipelineError(f"{name} has no UNet; the adapter is for the SD1.5 and SDXL families")
    if pipe.unet.device.type == "meta":
        raise PipelineError("the UNet's weights are offloaded; call attach() before enable_sequential_cpu_offload()")


def is_xl(pipe: Any) -> bool:
    """Whether the pipeline has SDXL's two text encoders."""
    return hasattr(pipe, "text_encoder_2")


def is_guided(pipe: Any, guidance_scale: float) -> bool:
    """Whether the pipeline will evaluate an unconditional branch at this guidance scale (LCM never does)."""
    probe = copy.copy(pipe)  # the rule is the pipeline's own, and reads what its call is about to set
    probe._guidance_scale = guidance_scale
    return bool(probe.do_classifier_free_guidance)


def context_length(pipe: Any) -> int:
    """Number of tokens that the text encoder reads, start and end token included."""
    return int(pipe.tokenizer.model_max_length)


def token_counter(pipe: Any) -> Count:
    """Counts tokens as the pipeline's (first) text encoder gets them, textual inversions expanded."""
    tokenizer = pipe.tokenizer

    def count(text: str) -> int:
        return len(tokenizer.tokenize(pipe.maybe_convert_prompt(text, tokenizer))) + 2  # start and end token

    return count


def encode(
    pipe: Any,
    texts: Sequence[str],
    *,
    seconds: Sequence[str] | None = None,
    negatives: Sequence[str] | None = None,
    guided: bool = False,
) -> Encoded:
    """Encodes with the pipeline's own text encoders.

    Args:
        pipe: the pipeline.
        texts: B prompts.
        seconds: what the second text encoder reads instead, SDXL only.
        negatives: B negative prompts, or None for the pipeline's default.
        guided: whether to encode the negative prompts at all.

    Raises:
        PipelineError: the pipeline was loaded without its text encoder.
    """
    if pipe.text_encoder is None:
        raise PipelineError("the pipeline has no text encoder to read the prompt with; load it, or put it back")
    negative = None if negatives is None else list(negatives)
    if is_xl(pipe):
        second = None if seconds is None else list(seconds)
        text, negative_text, pooled, negative_pooled = pipe.encode_prompt(
            list(texts), second, None, 1, guided, negative
        )
        return Encoded(text, negative_text, pooled, negative_pooled)
    text, negative_text = pipe.encode_prompt(list(texts), pipe._execution_device, 1, guided, negative)
    return Encoded(text, negative_text if guided else None, None, None)
