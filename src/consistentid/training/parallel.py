"""Which ways of sharing a training among processes there are."""

from __future__ import annotations

from accelerate import Accelerator, DistributedType
from accelerate.utils import parse_flag_from_env

from consistentid.errors import InputError
from consistentid.training.config import TrainConfig

_PARALLEL = (DistributedType.NO, DistributedType.MULTI_CPU, DistributedType.MULTI_GPU, DistributedType.FSDP)


def check_parallel(config: TrainConfig, accelerator: Accelerator) -> None:
    """Makes sure that the processes there are can share a recipe's steps.

    Raises:
        InputError: they cannot.
    """
    shares = accelerator.num_processes * config.accumulate
    if config.schedule.batch % shares:
        raise InputError(
            f"a batch of {config.schedule.batch} cannot be shared by {accelerator.num_processes} processes in"
            f" {config.accumulate} parts each; make schedule.batch a multiple of {shares}"
        )
    if parse_flag_from_env("ACCELERATE_USE_FSDP") and accelerator.distributed_type != DistributedType.FSDP:
        raise InputError("accelerate shards a model among several GPUs only; leave out --use_fsdp")
    plugin = getattr(accelerator.state, "fsdp_plugin", None)
    if accelerator.distributed_type not in _PARALLEL or (plugin and plugin.fsdp_version != 2):
        raise InputError(
            f"training is not made for {accelerator.distributed_type.value}; use torchrun, or FSDP with fsdp_version 2"
        )
    if plugin and (config.validation.every or config.base_share):
        raise InputError("sharded training goes without validation.every and base_share; set them to 0")
