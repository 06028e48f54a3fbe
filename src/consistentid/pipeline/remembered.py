"""The adapter's inputs for an identity and a text, made once as long as the networks stay as they are."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

from consistentid.adapter.adapter import ConsistentID
from consistentid.adapter.regions import Regions
from consistentid.files.weights import Versions
from consistentid.pipeline.request import Request
from consistentid.presets.settings import Settings

_MOST = 32  # identities and texts whose inputs are kept; each takes less than a megabyte


class RememberedInputs:
    """What `ConsistentID.inputs` returns for the prompts of requests.

    Args:
        adapter: attached to `pipe`.
        pipe: reads the texts.
    """

    def __init__(self, adapter: ConsistentID, pipe: Any) -> None:
        self._adapter, self._pipe = adapter, pipe
        self._inputs: OrderedDict[tuple[Any, ...], dict[str, Any]] = OrderedDict()
        self._made_by = Versions()

    def __len__(self) -> int:
        return len(self._inputs)

    def clear(self) -> None:
        """Forgets all."""
        self._inputs.clear()

    def of(self, request: Request, prompt: str | tuple[str, ...], settings: Settings) -> dict[str, Any]:
        """The inputs for these prompts of a request; errors as `ConsistentID.inputs` has them."""
        self._adapter.check_attached()
        texts = [network for name, network in self._pipe.components.items() if name.startswith("text_encoder")]
        made_by = Versions.of(self._adapter.image_projection, self._adapter.facial_encoder, *filter(None, texts))
        # a LoRA on a text encoder is weighed by numbers that leave no trace in its parameters
        unsure = any(getattr(network, "peft_config", None) for network in texts)
        if unsure or made_by != self._made_by:
            self._inputs.clear()
            self._made_by = made_by
        arguments: dict[str, Any] = {
            **{name: getattr(request, name) for name in _OF_REQUEST},
            "merge_at": request.merges(settings),
            "base_ratio": request.base_ratios(settings),
            "guidance_scale": settings.guidance_scale,
        }
        negative = settings.negative_prompt or None
        key = (request.people, prompt, negative, *map(_hashable, arguments.values()))
        if key not in self._inputs:
            self._inputs[key] = self._adapter.inputs(request.people, prompt, negative, **arguments)
        self._inputs.move_to_end(key)
        while len(self._inputs) > _MOST:
            self._inputs.popitem(last=False)
        return self._inputs[key]


_OF_REQUEST = (
    "regions", "person_prompts", "person_scales", "face_text", "parts", "part_scales", "regions_end",
)  # fmt: skip


def _hashable(value: Any) -> Any:
    if isinstance(value, Regions):
        return value.key
    if isinstance(value, Mapping):
        return tuple(value.items())
    return tuple(map(_hashable, value)) if isinstance(value, list | tuple) else value
