"""`consistentid train`."""

from __future__ import annotations

from pathlib import Path

import click

from consistentid.cli.common import EXISTING, debug_option, json_option, print_json, quiet


@click.command(
    short_help="Train an adapter as a recipe says.",
    epilog="""\b
Examples:
  consistentid train recipes/drawn.yaml --out runs/drawn
  consistentid train recipes/drawn.yaml --data people --set adapter.schedule.steps=200 --out runs/people
  torchrun --nproc_per_node 8 -m consistentid train recipes/sd15.yaml --data people --out runs/people""",
)
@click.argument("recipe", type=EXISTING)
@click.option("--set", "changes", multiple=True, metavar="NAME=VALUE", help="Another option, as section.option=value.")
@click.option("--data", type=EXISTING, help="Data set to learn from.  [default: the recipe's drawn pictures]")
@click.option("--init", help="Weights to start from: a path, a hub id, or an IP-Adapter-FaceID-Plus.")
@click.option("--out", required=True, type=EXISTING, help="Folder of the run: a new one, or one to go on with.")
@click.option("--cache", type=EXISTING, help="Folder for what frozen networks gave.  [default: OUT/cache]")
@click.option("--device", type=click.Choice(["cpu"]), help="Use no GPU.  [default: the best there is]")
@json_option
@debug_option
def train(
    recipe: Path,
    changes: tuple[str, ...],
    data: Path | None,
    init: str | None,
    out: Path,
    cache: Path | None,
    device: str | None,
    as_json: bool,
) -> None:
    """Train an adapter as RECIPE says.

    A run that was stopped, by Ctrl-C, SIGTERM or in any other way, goes on with the same line, and ends with the very
    weights it would have had. OUT/checkpoint-N can be used at any time, OUT itself when all steps are done:
    `consistentid generate --preset OUT`.
    """
    quiet()
    from consistentid.training.config import TrainConfig
    from consistentid.training.trainer import Trainer, claimed_run

    if init is not None:
        changes = (*changes, f"adapter.init={init}")
    config = TrainConfig.from_yaml(recipe, changes)
    with claimed_run(out):
        trainer = Trainer(
            config, out, data=data, cache=cache, device=device, say=lambda line: click.echo(line, err=as_json)
        )
        finished = trainer.train()
    if as_json and trainer.accelerator.is_main_process:
        print_json({"run": str(out), "step": trainer.step, "finished": finished})
