"""What works on the shards: processes of this machine, or Ray on many."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Final

import torch

from consistentid.data.build.job import Job
from consistentid.data.build.plan import Shard
from consistentid.data.build.worker import Worker
from consistentid.errors import ConsistentIDError, InputError
from consistentid.files.devices import resolve_device
from consistentid.files.workers import quiet_libraries, run_in_processes

ENGINES: Final = ("local", "ray")
_SHARING: Final = 4  # workers that find their faces on one GPU: the networks are small, and reading takes as long


def locally(job: Job, shards: Sequence[Shard], workers: int | None, done: Callable[[int], None]) -> None:
    """Work on shards with processes of this machine, and tell how many pictures have just been done."""
    run_in_processes(
        partial(_worker, job),
        _run,
        shards,
        workers or _default_workers(job),
        lambda _, count: done(count),
        remedy="give fewer --workers or a smaller --batch: the same line goes on where it was",
    )


def _default_workers(job: Job) -> int:
    if job.captioner:
        return 1
    cores = os.cpu_count() or 1
    return cores if resolve_device(job.device).type == "cpu" else min(cores, _SHARING)


def _worker(job: Job, _number: int) -> Worker:
    if multiprocessing.parent_process():  # its bars would stand beside that of the whole
        quiet_libraries()
    return Worker(job)


def _run(worker: Worker, shard: Shard) -> int:
    return worker(shard)


class _RayWorker:
    """A `Worker` as Ray Data calls it."""

    def __init__(self, job: Job) -> None:
        torch.set_num_threads(1)
        quiet_libraries()
        self.worker: Worker | None = None
        self.job = job

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        try:
            self.worker = self.worker or Worker(self.job)
            return {"count": self.worker(row["shard"]), "error": ""}
        except ConsistentIDError as error:  # as a value: Ray would wrap it in a report of its own
            return {"count": 0, "error": str(error)}


def by_ray(job: Job, shards: Sequence[Shard], workers: int | None, done: Callable[[int], None]) -> None:
    """The same as `locally` by Ray Data, on as many machines as the cluster has."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # it would tell its makers of this cluster
    try:
        import ray
        import ray.data
    except ImportError:
        raise InputError("engine='ray' needs Ray; install it with: pip install 'consistentid[ray]'") from None
    if not shards:
        return
    if not ray.is_initialized():
        ray.init(include_dashboard=False, log_to_driver=False)
    ray.data.DataContext.get_current().enable_progress_bars = False
    resources = ray.cluster_resources()
    # Of a GPU that is not asked for, Ray shows its workers nothing.
    share = 0.0 if job.device == "cpu" else 1.0 if job.captioner else 1 / _SHARING
    gpus = resources.get("GPU", 0.0) if share else 0.0
    most = min(workers or int(gpus / share if gpus else resources.get("CPU", 1)), len(shards))
    rows = ray.data.from_items([{"shard": shard} for shard in shards], override_num_blocks=len(shards))
    mapped = rows.map(
        _RayWorker,
        fn_constructor_args=(job,),
        compute=ray.data.ActorPoolStrategy(min_size=1, max_size=most),
        num_cpus=1,
        num_gpus=share if gpus else 0,
    )
    for row in mapped.iter_rows():
        if row["error"]:
            raise ConsistentIDError(row["error"])
        done(row["count"])
