"""What the service answers when it does not do what was asked: a status, a code for machines, a sentence for people."""

from __future__ import annotations

from typing import Any

from consistentid.errors import (
    CancelledError,
    ConsistentIDError,
    FaceError,
    ImageError,
    IncompatibleIdentityError,
    InputError,
)


class RefusedError(ConsistentIDError):
    """An answer other than 200.

    Args:
        status: of HTTP.
        code: a word for machines.
        message: what was wrong and what to do about it.
        retry_after: seconds after which it may go better.
    """

    def __init__(self, status: int, code: str, message: str, retry_after: int | None = None) -> None:
        super().__init__(message)
        self.status, self.code, self.retry_after = status, code, retry_after

    @property
    def headers(self) -> dict[str, str]:
        """Of the answer."""
        headers = {} if self.retry_after is None else {"Retry-After": str(self.retry_after)}
        return headers | ({"WWW-Authenticate": 'Bearer, Basic realm="consistentid"'} if self.status == 401 else {})

    def body(self) -> dict[str, Any]:
        """The answer's JSON, in the form that OpenAI's clients read, too."""
        kind = "invalid_request_error" if self.status < 500 else "server_error"
        return {"error": {"message": str(self), "type": kind, "param": None, "code": self.code}}


def refusal_of(error: Exception) -> RefusedError:
    """The refusal for any error: what a client can mend is 4xx and says how, all else is 500 and says nothing."""
    match error:
        case RefusedError():
            return error
        case CancelledError():
            return RefusedError(409, "cancelled", "the request was cancelled")
        case ImageError():
            return RefusedError(400, "unusable_picture", str(error))
        case FaceError():
            return RefusedError(422, "unusable_face", str(error))
        case IncompatibleIdentityError():
            return RefusedError(422, "incompatible_identity", str(error))
        case InputError():
            return RefusedError(400, "invalid_request", str(error))
    return RefusedError(500, "unexpected", "this was not expected; the administrator finds more in the service's log")
