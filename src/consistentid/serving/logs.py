"""Structured logs: one JSON object a line, without prompts, names, addresses or identifiers of anybody's work."""

from __future__ import annotations

import json
import logging
import time
import traceback

LOGGER = logging.getLogger("consistentid.serving")


class _JsonLines(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        moment = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created)) + f".{record.msecs:03.0f}Z"
        fields = getattr(record, "fields", {})
        return json.dumps({"time": moment, "level": record.levelname.lower(), "event": record.getMessage(), **fields})


def configure() -> None:
    """Write the service's events to stderr."""
    handler = logging.StreamHandler()
    handler.setFormatter(_JsonLines())
    LOGGER.handlers = [handler]
    LOGGER.setLevel(logging.INFO)
    LOGGER.propagate = False


def event(name: str, **fields: object) -> None:
    """One line of the log."""
    LOGGER.info(name, extra={"fields": fields})


def unexpected(kind: str, error: Exception) -> None:
    """An error that nobody thought of: where it was, and not what it said, as a message may hold words of a prompt."""
    LOGGER.error("unexpected", extra={"fields": {"kind": kind, "error": type(error).__name__, "where": where(error)}})


def where(error: Exception) -> list[str]:
    """The lines of code that an error went through, without the folders, which are the machine's."""
    lines = traceback.extract_tb(error.__traceback__)
    return [f"{line.filename.rpartition('/')[2]}:{line.lineno} {line.name}" for line in lines]
