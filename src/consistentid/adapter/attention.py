"""Text cross-attention of chosen words, seen while the UNet runs with its own fused kernels."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from consistentid.errors import InputError
from consistentid.files.devices import exactly


class AttentionRecorder:
    """Records the attention of a few text tokens in the cross-attention layers of some UNet blocks.

    The layers run as always; beside them the softmax over the *text* tokens alone is computed once more, from the
    layer's own query and key projections (a LoRA included), and only the wanted columns are kept. The ID tokens, which
    the layers attend to separately, do not enter.

    Args:
        unet: UNet2DConditionModel.
        blocks: names of blocks such as "mid_block"; by default all that have cross-attention but the outermost down
            and up block when there are seven or more (the middle five of SD1.5, as in the paper).
    """

    def __init__(self, unet: nn.Module, blocks: Sequence[str] | None = None) -> None:
        layers = {n: m for n, m in unet.named_modules() if n.endswith(".attn2")}
        names = list(dict.fromkeys(_block(n) for n in layers))
        names.sort(key=lambda n: ("down_blocks", "mid_block", "up_blocks").index(n.split(".")[0]))
        if blocks is None:
            blocks = names[1:-1] if len(names) >= 7 else names
        if unknown := sorted(set(blocks) - set(names)):
            raise InputError(
                f"the UNet has no block {', '.join(unknown)} with cross-attention; it has {', '.join(names)}"
            )
        self.layers: dict[str, Any] = {n: m for n, m in layers.items() if _block(n) in blocks}
        self.maps: dict[str, Tensor] = {}
        self._positions = torch.empty(0)
        self._sizes = (0, 0)
        self._handles: list[Any] = []

    @contextmanager
    def recording(self, positions: Tensor, size: tuple[int, int]) -> Iterator[dict[str, Tensor]]:
        """`watch` within the block."""
        try:
            yield self.watch(positions, size)
        finally:
            self.stop()

    def watch(self, positions: Tensor, size: tuple[int, int]) -> dict[str, Tensor]:
        """From now on every run of the UNet fills the mapping returned: layer -> (B, N, h, w), mean over heads.

        A training with gradient checkpointing must watch until its backward pass is done, which runs the layers again.

        Args:
            positions: (B, N) long, the text positions to watch; (1, N) of all rows, however many there are.
            size: height and width of the latents.
        """
        self._positions, self._sizes, self.maps = positions, size, {}
        if not self._handles:
            self._handles = [
                layer.register_forward_pre_hook(self._hook(name), with_kwargs=True)
                for name, layer in self.layers.items()
            ]
        return self.maps

    def stop(self) -> None:
        """End `watch`; does nothing otherwise."""
        for handle in self._handles:
            handle.remove()
        self._handles = []

    def _hook(self, name: str) -> Any:
        def record(layer: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            hidden = args[0] if args else kwargs["hidden_states"]
            text = kwargs["encoder_hidden_states"]
            text = text[0] if isinstance(text, tuple) else text  # diffusers passes (text, ID tokens)
            self.maps[name] = self._attention(layer, hidden, text)

        return record

    def _attention(self, layer: Any, hidden: Tensor, text: Tensor) -> Tensor:
        q, k = (x.unflatten(-1, (layer.heads, -1)).transpose(1, 2) for x in (layer.to_q(hidden), layer.to_k(text)))
        # In float32: a loss on shares of a map's maximum has gradients that nearly cancel, and half precision makes
        # noise of them, many times as large as all others.
        with exactly(hidden.device):
            scores = (q.float() @ k.float().transpose(-1, -2)) * layer.scale  # (B, heads, h*w, T)
            log_z = scores.logsumexp(-1, keepdim=True)
            wanted = self._positions[:, None, None, :].expand(*scores.shape[:3], -1)
            p = (scores.gather(-1, wanted) - log_z).exp().mean(1)  # (B, h*w, N)
        height, width = self._sizes
        shrink = round((height * width / p.shape[1]) ** 0.5)
        maps: Tensor = p.transpose(1, 2).unflatten(-1, (-(-height // shrink), -1))
        return maps


def _block(name: str) -> str:
    first, second = name.split(".")[:2]
    return first if first == "mid_block" else f"{first}.{second}"
