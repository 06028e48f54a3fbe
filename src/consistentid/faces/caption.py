"""Words for pictures of people from a vision-language model of the user's choice (paper, section 3.1).

Two questions are asked of each picture: what it shows, and what the parts of the face look like.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from inspect import signature
from typing import TYPE_CHECKING, Any, Final, Self

from consistentid.errors import CheckpointError, InputError, first_line

if TYPE_CHECKING:
    import torch
    from PIL import Image

IMAGE_QUESTION: Final = (
    "Describe the person in this picture in one short sentence: gender, age, clothing, expression, what the person "
    "does, where, and anything that sets the person apart. Write only the sentence."
)
FACE_QUESTION: Final = (
    "Describe this person's facial features in one short sentence that names the face, the eyes, the ears, the nose "
    "and the mouth, each with one or two adjectives. Leave out what cannot be seen. Write only the sentence."
)

_LONGEST: Final = 100
"""Tokens of an answer; CLIP's text encoder reads 77."""

_WITH_FILMS: Final = ("self", "image_processor", "tokenizer", "video_processor", "chat_template", "kwargs")
"""Arguments of the processors of Qwen's family."""

_MARKUP: Final = re.compile(r"[*_`#>|\"\u201c\u201d]+")
_BULLET: Final = re.compile(r"^\s*(?:[-\u2022]|\d+[.)])\s+")
_LEAD_IN: Final = re.compile(
    r"^(?:(?:sure|certainly|of course|okay)\b[^:.!,]*[:.!,]\s*)?(?:here(?:'s| is| are)\b[^:]*:\s*)?", re.IGNORECASE
)
_REFUSAL: Final = re.compile(
    r"^(?:i(?:'m| am) (?:sorry|unable|not able)|sorry\b|unfortunately\b|i can(?:not|'t)|as an ai\b)", re.IGNORECASE
)


@dataclass(frozen=True)
class Caption:
    """What a picture shows: `image` tells the scene, `face` the parts of the face; empty = not known."""

    image: str
    face: str


class Captioner:
    """Asks a vision-language model about pictures, in batches.

    Args:
        model: an image-text-to-text model of transformers.
        processor: its processor, with a chat template.
        batch_size: questions answered at once.

    Raises:
        CheckpointError: the processor has no chat template.
        InputError: a batch of none.
    """

    def __init__(self, model: Any, processor: Any, batch_size: int = 8) -> None:
        if not getattr(processor, "chat_template", None):
            raise CheckpointError(
                "the captioner's processor has no chat template, so it cannot be asked; "
                "use an instruction-tuned model such as llava-hf/llava-1.5-7b-hf"
            )
        if batch_size < 1:
            raise InputError(f"batch_size={batch_size} is not allowed; give at least 1")
        # Answers are written after the question: padding belongs before it.
        processor.tokenizer.padding_side = "left"
        if processor.tokenizer.pad_token is None:
            processor.tokenizer.pad_token = processor.tokenizer.eos_token
        self.model = model.eval().requires_grad_(False)
        self.processor = processor
        self.batch_size = batch_size

    @classmethod
    def from_pretrained(
        cls,
        name_or_path: str | os.PathLike[str],
        device: torch.device | str = "cpu",
        dtype: torch.dtype | None = None,
        revision: str | None = None,
        batch_size: int = 8,
    ) -> Self:
        """A model of the hub or of a folder: the LLaVA and Qwen-VL families and others that transformers knows.

        Args:
            name_or_path: such as "llava-hf/llava-1.5-7b-hf" or "Qwen/Qwen2.5-VL-7B-Instruct".
            device: where to compute.
            dtype: by default float32 on a CPU and the checkpoint's own elsewhere.
            revision: branch, tag or commit on the hub.
            batch_size: questions answered at once.

        Raises:
            CheckpointError: it cannot be loaded, or is a model of another kind.
        """
        import torch
        from transformers import AutoModelForImageTextToText

        from consistentid.files.weights import check_network

        chosen = dtype or (torch.float32 if torch.device(device).type == "cpu" else "auto")
        try:
            processor = _load_processor(name_or_path, revision)
            model, report = AutoModelForImageTextToText.from_pretrained(
                name_or_path, revision=revision, dtype=chosen, output_loading_info=True
            )
        except Exception as error:  # a foreign or broken repository makes loaders raise nearly anything
            reason = first_line(error)
            raise CheckpointError(
                f"captioner: {name_or_path} cannot be loaded ({reason}); give a vision-language model of transformers "
                "by hub id or folder, such as llava-hf/llava-1.5-7b-hf"
            ) from error
        check_network(model, report["missing_keys"], f"captioner: {name_or_path}")
        return cls(model.to(device), processor, batch_size)

    def describe(self, images: Sequence[Image.Image]) -> list[Caption]:
        """What RGB pictures show, and what the face in each looks like."""
        questions = (IMAGE_QUESTION, FACE_QUESTION)
        answers = self.ask([image for image in images for _ in questions], questions * len(images))
        return [Caption(*pair) for pair in zip(answers[::2], answers[1::2], strict=True)]

    def describe_faces(self, images: Sequence[Image.Image]) -> list[str]:
        """The facial sentence for each RGB picture."""
        return self.ask(images, [FACE_QUESTION] * len(images))

    def ask(self, images: Sequence[Image.Image], questions: Sequence[str]) -> list[str]:
        """The answer to one question about each RGB picture, as one line; empty where the model refuses."""
        pairs = list(zip(images, questions, strict=True))
        batches = (pairs[start : start + self.batch_size] for start in range(0, len(pairs), self.batch_size))
        return [answer for batch in batches for answer in self._answer(batch)]

    def _answer(self, pairs: Sequence[tuple[Image.Image, str]]) -> list[str]:
        import torch

        chats = [
            [{"role": "user", "content": [{"type": "image", "image": image}, {"type": "text", "text": question}]}]
            for image, question in pairs
        ]
        inputs = self.processor.apply_chat_template(
            chats,
            add_generation_prompt=True,
            tokenize=True,
            return_dict=True,
            return_tensors="pt",
            processor_kwargs={"padding": True},
        ).to(self.model.device, self.model.dtype)
        with torch.inference_mode():
            written = self.model.generate(**inputs, max_new_tokens=_LONGEST, do_sample=False)
        written = written[:, inputs["input_ids"].shape[1] :]
        ends = torch.tensor([self.model.generation_config.eos_token_id], device=written.device).view(-1)
        finished = torch.isin(written, ends).any(dim=1).tolist()
        texts = self.processor.batch_decode(written, skip_special_tokens=True)
        return [clean(text, complete) for text, complete in zip(texts, finished, strict=True)]


def _load_processor(name_or_path: str | os.PathLike[str], revision: str | None) -> Any:
    """A model's processor. Those of Qwen's family watch films, too, with torchvision: without it they see pictures."""
    from transformers import AutoConfig, AutoProcessor
    from transformers.models.auto.processing_auto import PROCESSOR_MAPPING
    from transformers.utils import is_torchvision_available

    config = type(AutoConfig.from_pretrained(name_or_path, revision=revision))
    kind: Any = PROCESSOR_MAPPING.get(config, AutoProcessor)
    if is_torchvision_available() or tuple(signature(kind.__init__).parameters) != _WITH_FILMS:
        return AutoProcessor.from_pretrained(name_or_path, revision=revision)

    def init(self: Any, image_processor: Any, tokenizer: Any, chat_template: str | None = None) -> None:
        kind.__init__(self, image_processor, tokenizer, chat_template=chat_template)

    # transformers loads what the arguments name
    for_pictures: Any = type(kind.__name__, (kind,), {"__init__": init})
    return for_pictures.from_pretrained(name_or_path, revision=revision)


def clean(answer: str, complete: bool = True) -> str:
    """A model's answer as plain sentences on one line.

    Markup, bullets and lead-ins ("Sure, here is ...:") go; of an answer that was not `complete`, so does what follows
    its last full sentence, or else its last full clause. A refusal becomes empty.
    """
    text = ""
    for line in _MARKUP.sub("", answer).splitlines():
        if text and text[-1] not in ".!?,;:" and _BULLET.match(line):
            text += ","  # the items of a list become clauses of one sentence
        text = f"{text} {_BULLET.sub('', line).strip()}".strip()
    text = _LEAD_IN.sub("", " ".join(text.split())).strip()
    if _REFUSAL.match(text.replace("\u2019", "'")):
        return ""
    if not complete:
        end = max(text.rfind(mark) for mark in ".!?") + 1 or max(text.rfind(mark) for mark in ",;")
        text = text[:end] if end > 0 else text
    return text.strip()
