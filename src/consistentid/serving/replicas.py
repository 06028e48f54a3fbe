"""The service as several processes under Ray Serve: the same application in each, and one address before them all."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import FastAPI

from consistentid.errors import ConsistentIDError, InputError, first_line
from consistentid.files.config import Between, check
from consistentid.serving.access import Access
from consistentid.serving.api import create_app
from consistentid.serving.limits import Limits
from consistentid.serving.logs import configure, event
from consistentid.serving.run import listen, url_of
from consistentid.serving.service import Service

_NAME = "consistentid"
_SETTINGS = {
    "RAY_USAGE_STATS_ENABLED": "0",  # no request leaves the machine
    "RAY_DEDUP_LOGS": "0",  # it would leave out lines of the log that look like others
    # Seconds: while replicas load their weights they leave little of the machine to what is to answer for them.
    "RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S": "60",
    "RAY_SERVE_PROXY_HEALTH_CHECK_TIMEOUT_S": "60",
    "RAY_worker_niceness": "0",  # Ray's own is 15: whatever else runs would go before what answers
    "RAY_worker_register_timeout_seconds": "300",
}
"""What Ray reads of the environment, unless the administrator says otherwise."""
_HEALTH = 120.0
"""Seconds in which a replica has to say that it is well; one that samples may be slow to."""
_BESIDE = 64
"""Calls that a replica answers at once beside those that wait in its queue: states, refusals."""


@dataclass(frozen=True)
class Scale:
    """How many replicas there are, and what each has: the file of ``--config``.

    Attributes:
        replicas: processes, each with the weights loaded and a queue of its own.
        cpus: of each; Ray starts as many replicas on a machine as this and `gpus` leave room for.
        gpus: of each; 0.5 lets two share one.
        batch_size: pictures that one samples together, at most; by default as the preset has it.
        address: of a Ray cluster that is running, HOST:PORT or "auto"; by default this machine alone, for this service.

    Raises:
        InputError: a value that is not allowed.
    """

    replicas: Annotated[int, Between(1, 10_000)] = 1
    cpus: Annotated[float, Between(0, 1024)] = 1
    gpus: Annotated[float, Between(0, 64)] = 0
    batch_size: Annotated[int, Between(1, 1024)] | None = None
    address: str | None = None

    def __post_init__(self) -> None:
        check(self)
        if self.gpus > 1 and not self.gpus.is_integer():
            raise InputError(f"gpus={self.gpus:g} is not allowed; give a fraction of one GPU, or whole ones")


def run_replicas(make: Callable[[], Any], limits: Limits, access: Access, host: str, port: int, scale: Scale) -> None:
    """Serve until the process is told to end.

    Args:
        make: makes the pipeline; called in each replica, on whatever machine that is.
        limits: what may be asked of each replica.
        access: who may ask.
        host, port: where to listen; port 0 is any that is free.
        scale: how many replicas, and with what.

    Raises:
        InputError: Ray is not installed or not there, nothing can listen there, or this machine has not so much.
        ConsistentIDError: a replica cannot start, with its words.
    """
    if limits.keep_identities and scale.replicas > 1:
        raise InputError(
            f"--keep-identities with replicas={scale.replicas}: an identity would be known to one of them alone; leave"
            " it out, clients keep the file"
        )
    for name, value in _SETTINGS.items():
        os.environ.setdefault(name, value)
    try:
        import ray
        from ray import serve
    except ImportError as error:
        raise InputError(
            f"--engine ray needs Ray Serve ({error.name} is not installed); pip install 'consistentid[ray]'"
        ) from None
    if scale.address is None:
        with listen(host, port) as free:  # Ray would go on trying one that is taken
            port = free.getsockname()[1]
    configure()
    _connect(ray, scale)
    try:
        try:
            serve.start(
                proxy_location="EveryNode",
                http_options={"host": host, "port": port, "keep_alive_timeout_s": 75},
                logging_config={"enable_access_log": False, "log_level": "WARNING"},  # it would hold the ids of jobs
            )
            serve.run(_application(serve, make, limits, access, scale), name=_NAME, route_prefix="/")
        except (RuntimeError, ray.exceptions.RayError) as error:
            reason = str(error).strip().splitlines()[-1].strip()  # before it stands the traceback of a replica
            raise ConsistentIDError(f"--engine ray: no replica can start ({reason}); see the log above") from None
        event("listening", url=url_of(host, port), replicas=scale.replicas)
        _until_told()
        serve.delete(_NAME)
    finally:
        if scale.address is None:
            serve.shutdown()
        ray.shutdown()


def _connect(ray: Any, scale: Scale) -> None:
    """Joins the cluster, or starts one of this machine.

    Raises:
        InputError: there is none, or this machine has not what is asked for.
        ConsistentIDError: it does not start, which Ray gives up after half a minute.
    """
    try:
        ray.init(address=scale.address or "local", include_dashboard=False, logging_level="WARNING")
    except Exception as error:  # of a node that is late, no kind of its own
        if scale.address is None:
            raise ConsistentIDError(f"--engine ray: Ray does not start here ({first_line(error)}); try again") from None
        raise InputError(
            f"address={scale.address}: no Ray cluster answers there ({first_line(error)}); start one first"
        ) from None
    if scale.address is not None:
        return  # which may have, or get, more machines
    has = ray.cluster_resources()
    for name, each in (("CPU", scale.cpus), ("GPU", scale.gpus)):
        if each * scale.replicas > has.get(name, 0):
            ray.shutdown()
            raise InputError(
                f"replicas={scale.replicas} of {each:g} {name}s each are more than this machine has,"
                f" {has.get(name, 0):g}; give fewer, or the address of a larger cluster"
            )


def _application(serve: Any, make: Callable[[], Any], limits: Limits, access: Access, scale: Scale) -> Any:
    def build() -> FastAPI:
        """In the replica, before Ray sends anybody to it."""
        configure()
        service = Service(make, limits, shared=scale.replicas > 1)
        service.start(wait=True)
        if service.state == "failed":
            raise ConsistentIDError(service.stage)
        return create_app(service, access)

    deployment = serve.deployment(
        serve.ingress(build)(),
        name=_NAME,
        num_replicas=scale.replicas,
        max_ongoing_requests=limits.waiting + _BESIDE,  # the queue is the application's, which says 429
        ray_actor_options={"num_cpus": scale.cpus, "num_gpus": scale.gpus},
        health_check_timeout_s=_HEALTH,
        logging_config={"enable_access_log": False, "log_level": "WARNING"},
    )
    return deployment.bind()


def _until_told() -> None:
    told = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: told.set())
    while not told.wait(1):  # a wait without an end would not be left for a signal everywhere
        pass
