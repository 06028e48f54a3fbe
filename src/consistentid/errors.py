"""Every error a user can meet. Each message says what was wrong and what to do about it.

```
ConsistentIDError
├── InputError                  an argument or a file cannot be used as given
│   ├── ArgumentError           an argument of a call, which a caller may know by another name
│   ├── ImageError              not a picture, broken, too small or too large
│   ├── PromptTooLongError      the prompt does not fit the text encoder
│   └── DatasetError            a data set is incomplete or inconsistent
├── FaceError                   about the face in a picture
│   ├── NoFaceError
│   ├── SeveralFacesError
│   └── PhotographError         a photograph was given to a preset made for drawings
├── CheckpointError             weights are missing, truncated or of another layout
├── IncompatibleIdentityError   an identity made by other networks than the adapter expects
├── TrainingError               a training cannot go on, or not as it was begun
├── ServerError                 a running service cannot be reached, or refuses
├── PipelineError               the diffusion pipeline cannot take the adapter, or lost it
└── CancelledError              a request was cancelled by its caller
```
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


class ConsistentIDError(Exception):
    """Base of all errors raised on purpose by this package."""


class InputError(ConsistentIDError, ValueError):
    """An argument or a file cannot be used as given."""


class ArgumentError(InputError):
    """An argument of a call cannot be used as given, or does not go together with another.

    Args:
        template: the message for `str.format`, in which arguments stand in braces by their name, as in
            ``"{seed}={value!r} is not allowed"``.
        values: what else stands in braces.
    """

    def __init__(self, template: str, **values: Any) -> None:
        self._template, self._values = template, values
        super().__init__(self.named({}))

    def named(self, names: Mapping[str, str]) -> str:
        """The message with a caller's own names for the arguments, such as ``{"num_inference_steps": "--steps"}``."""
        return self._template.format_map(_Names({**names, **self._values}))

    def __reduce__(self) -> tuple[Any, ...]:
        return _argument_error, (self._template, self._values)


class _Names(dict[str, Any]):
    def __missing__(self, name: str) -> str:
        return name


def _argument_error(template: str, values: Mapping[str, Any]) -> ArgumentError:
    return ArgumentError(template, **values)


class ImageError(InputError):
    """A file is not a picture, is broken, or has an unusable size."""


class PromptTooLongError(InputError):
    """The prompt does not fit the text encoder's context."""


class DatasetError(InputError):
    """A data set is incomplete or inconsistent."""


class FaceError(ConsistentIDError):
    """Something about the faces in a picture prevents the work."""


class NoFaceError(FaceError):
    """No face was found."""


class SeveralFacesError(FaceError):
    """More than one face was found and none was chosen."""


class PhotographError(FaceError):
    """A photograph was given to a preset whose networks know drawings only."""


class CheckpointError(ConsistentIDError):
    """Weights are missing, truncated, or of a layout that is not known."""


class IncompatibleIdentityError(ConsistentIDError):
    """The identity was made by other networks than the adapter was trained with."""


class TrainingError(ConsistentIDError):
    """A training cannot go on, or not as it was begun."""


class ServerError(ConsistentIDError):
    """A running service cannot be reached, is of another kind or version, or refuses."""


class PipelineError(ConsistentIDError):
    """The diffusion pipeline cannot take the adapter, or has lost it."""


class CancelledError(ConsistentIDError):
    """A request was cancelled by its caller."""


def first_line(error: Exception) -> str:
    """What an error of another library says, short enough to stand inside our own line."""
    lines = (str(error).strip() or type(error).__name__).splitlines()
    if len(lines) > 1 and lines[0].rstrip().endswith(":"):  # as torch's "Error(s) in loading state_dict for ...:"
        return f"{lines[0].rstrip()} {lines[1].strip()}"
    return lines[0]
