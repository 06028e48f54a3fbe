"""The service as a process: a socket, the application, the log."""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import Any

import uvicorn

from consistentid.errors import InputError
from consistentid.presets.preset import Preset
from consistentid.serving.access import Access
from consistentid.serving.api import create_app
from consistentid.serving.limits import Limits
from consistentid.serving.logs import configure, event
from consistentid.serving.notes import routed
from consistentid.serving.page.mount import Page
from consistentid.serving.service import Service


def run(
    make: Callable[[], Any], limits: Limits, access: Access, host: str, port: int, page: Preset | None = None
) -> None:
    """Serve until the process is told to end.

    Args:
        make: makes the pipeline, in the background.
        limits: what may be asked for.
        access: who may ask.
        host, port: where to listen; port 0 is any that is free.
        page: the preset, where browsers get a page of it at `/`.

    Raises:
        InputError: nothing can listen there.
    """
    listener = listen(host, port)
    configure()
    event("listening", url=url_of(host, listener.getsockname()[1]))
    service = Service(make, limits)
    config = uvicorn.Config(
        create_app(service, access, Page(service, page) if page else None),
        log_config=None,  # its log of accesses holds paths, and these the ids of jobs
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=10,
        timeout_keep_alive=75,  # longer than proxies keep theirs, so that none sends into one that is being closed
    )
    # Before any thread begins: one that imports a library puts back what it found here, whenever it ends.
    with listener, routed():
        uvicorn.Server(config).run(sockets=[listener])


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens there; port 0 is any that is free.

    Raises:
        InputError: none can.
    """
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((host, port), family=family)
    except OSError as error:
        raise InputError(f"--host {host} --port {port}: cannot listen there ({error.strerror or error})") from None


def url_of(host: str, port: int) -> str:
    """Address of a service, for people and clients."""
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
