"""Command line: ``python -m consistentid.training.drawn RECIPE STAGE --out RUN``; the stage "all" does one by one."""

from __future__ import annotations

import sys
from datetime import timedelta
from pathlib import Path

import click
import torch
from accelerate import PartialState

from consistentid.errors import ConsistentIDError
from consistentid.training.drawn.recipe import Recipe
from consistentid.training.drawn.stages import BY_NAME, STAGES, run_stage, times
from consistentid.training.stopping import Stopped

ALL = "all"
_PATIENCE = timedelta(days=3)  # of processes that wait for one that draws


@click.command()
@click.argument("recipe", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.argument("stage", type=click.Choice([ALL, *BY_NAME]))
@click.option("--out", required=True, type=click.Path(path_type=Path), help="Folder of checkpoints and networks.")
@click.option("--set", "changes", multiple=True, metavar="NAME=VALUE", help="Another option, as section.option=value.")
@click.option("--cache", type=click.Path(path_type=Path), help="Folder of drawn pictures.  [default: OUT/cache]")
@click.option("--device", default="cuda" if torch.cuda.is_available() else "cpu", show_default=True)
@click.option("--workers", default=1, show_default=True, help="Processes that draw pictures.")
@click.option("--ahead", default=0, show_default=True, help="Processes that prepare batches, for a GPU that waits.")
def main(
    recipe: Path,
    stage: str,
    out: Path,
    changes: tuple[str, ...],
    cache: Path | None,
    device: str,
    workers: int,
    ahead: int,
) -> None:
    """Train one network of the drawn preset, or ALL in order; what is done is not done again.

    It can be stopped at any moment, also by `kill -9`: the same line goes on from the last checkpoint.
    """
    opened = Recipe(recipe, cache or out / "cache", workers, changes, ahead)
    processes = PartialState(cpu=device == "cpu", timeout=_PATIENCE)
    where = torch.device(device) if device == "cpu" or ":" in device else processes.device
    try:
        for each in STAGES if stage == ALL else [BY_NAME[stage]]:
            done_now = run_stage(each, opened, out, where)
            if processes.is_main_process:
                seconds = times(out)[each.name]["seconds"]
                print(f"{each.name}: {'done' if done_now else 'was done'} in {seconds:.0f} s", flush=True)
    except Stopped as stopped:
        click.echo(str(stopped), err=True)
        sys.exit(130)
    except ConsistentIDError as error:
        raise _BadInput(str(error)) from error


class _BadInput(click.ClickException):
    exit_code = 2


if __name__ == "__main__":
    main()
