"""`consistentid serve`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import click

from consistentid.cli.common import (
    EXISTING,
    debug_option,
    device_option,
    dtype_option,
    low_memory_option,
    preset_option,
    provenance_options,
    quiet,
    read_provenance,
)
from consistentid.errors import InputError
from consistentid.serving.address import TOKEN_VARIABLE, is_loopback

if TYPE_CHECKING:
    from consistentid.serving.replicas import Scale


@click.command(
    short_help="An HTTP service for portraits.",
    epilog=f"""\b
Examples:
  consistentid serve
  consistentid serve --preset sdxl --port 8000 --keep-identities 3600
  consistentid serve --host 0.0.0.0 --token-file tokens.txt
  consistentid serve --engine ray --config serve.yaml
  {TOKEN_VARIABLE}=$(openssl rand -hex 24) consistentid serve --host 0.0.0.0""",
)
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen at.")
@click.option("--port", default=7860, show_default=True, type=click.IntRange(0, 65535), help="0 = any that is free.")
@click.option(
    "--token-file", type=EXISTING, help=f"Tokens of the clients, one a line.  [default: the one in {TOKEN_VARIABLE}]"
)
@click.option("--allow-anyone", is_flag=True, help="Listen to other machines without a token.")
@click.option("--max-pictures", default=16, show_default=True, type=int, help="In one request.")
@click.option("--max-steps", default=100, show_default=True, type=int, help="Sampling steps.")
@click.option("--max-side", default=1536, show_default=True, type=int, help="Pixels of a picture's side.")
@click.option("--max-photos", default=8, show_default=True, type=int, help="Of one person.")
@click.option("--max-megabytes", default=32, show_default=True, type=int, help="Of one request's body.")
@click.option("--max-megapixels", default=25, show_default=True, type=int, help="Of one uploaded picture.")
@click.option("--queue", default=32, show_default=True, type=int, help="Requests that may wait.")
@click.option("--per-client", default=16, show_default=True, type=int, help="Of these, of one token or address.")
@click.option("--timeout", default=300.0, show_default=True, type=float, help="Seconds after which one is given up.")
@click.option(
    "--keep-identities",
    default=0.0,
    show_default=True,
    type=float,
    metavar="SECONDS",
    help="Keep identities in memory for so long; 0 = never, clients keep the file.",
)
@click.option("--page/--no-page", default=None, help="A page for browsers.  [default: if Gradio is installed]")
@click.option(
    "--engine",
    type=click.Choice(["local", "ray"]),
    default="local",
    show_default=True,
    help="local = this process; ray = several, on one machine or many, by Ray Serve.",
)
@click.option("--config", type=EXISTING, help="YAML with how many replicas, and with what, for --engine ray.")
@provenance_options
@preset_option
@device_option
@dtype_option
@low_memory_option
@debug_option
def serve(
    host: str,
    port: int,
    token_file: Path | None,
    allow_anyone: bool,
    max_pictures: int,
    max_steps: int,
    max_side: int,
    max_photos: int,
    max_megabytes: int,
    max_megapixels: int,
    queue: int,
    per_client: int,
    timeout: float,
    keep_identities: float,
    page: bool | None,
    engine: str,
    config: Path | None,
    certificate: Path | None,
    private_key: Path | None,
    watermark: bool,
    preset: str,
    device: str | None,
    dtype: str | None,
    low_memory: bool,
) -> None:
    """Serve portraits: a page for browsers at /, and HTTP calls under /v1, described by /openapi.json.

    Answers on /health at once and on /ready when the weights are loaded. Nothing about a person is kept after the
    answer. Logs are JSON lines on stderr, without prompts and names.
    """
    try:
        from consistentid.serving.run import run
    except ImportError as error:
        raise InputError(
            f"the service needs {error.name}, which is not installed; pip install 'consistentid[serve]'"
        ) from None
    from consistentid.presets.read import load_preset
    from consistentid.serving.access import Access, check_tokens, read_tokens
    from consistentid.serving.limits import Limits
    from consistentid.serving.page.mount import available

    if page and not available():
        raise InputError("--page: Gradio is not installed; pip install 'consistentid[app]', or leave it out")
    tokens: tuple[str, ...] = ()
    if token_file is not None:
        tokens = read_tokens(token_file)
    elif TOKEN_VARIABLE in os.environ:
        tokens = check_tokens([os.environ[TOKEN_VARIABLE]], TOKEN_VARIABLE)
    if not tokens and not is_loopback(host) and not allow_anyone:
        raise InputError(
            f"--host {host} lets other machines in, and there is no token; give --token-file, or --allow-anyone"
        )
    limits = Limits(
        body_bytes=max_megabytes << 20,
        pixels=max_megapixels * 1_000_000,
        photos=max_photos,
        pictures=max_pictures,
        steps=max_steps,
        side=max_side,
        waiting=queue,
        waiting_per_client=per_client,
        seconds=timeout,
        keep_identities=keep_identities,
    )
    chosen = load_preset(preset)
    read_provenance(certificate, private_key, watermark=watermark)  # what is wrong with it is said at once
    scale = _scale(engine, config)
    if scale is not None and scale.batch_size is not None:
        chosen = chosen.override(batch_size=scale.batch_size)

    def make() -> object:
        quiet(notes=False)
        from consistentid.pipeline.pipeline import ConsistentIDPipeline

        # read where pictures are signed: a key is not sent from machine to machine
        marks = read_provenance(certificate, private_key, watermark=watermark)
        return ConsistentIDPipeline(chosen, device=device, dtype=dtype, low_memory=low_memory, provenance=marks)

    access = Access(tokens, loopback=is_loopback(host))
    if scale is not None:
        if page:
            raise InputError("--page: a page is of one process; leave it out, or --engine ray")
        from consistentid.serving.replicas import run_replicas

        run_replicas(make, limits, access, host, port, scale)
        return
    shown = chosen if page or (page is None and available()) else None
    run(make, limits, access, host, port, shown)


def _scale(engine: str, config: Path | None) -> Scale | None:
    """What the file of `--config` says of replicas; None for one process without Ray.

    Raises:
        InputError: a file without Ray, or one that says something else.
    """
    if engine == "local":
        if config is not None:
            raise InputError("--config says how many replicas there are; give --engine ray, too, or leave it out")
        return None
    from consistentid.files.config import build
    from consistentid.files.documents import read_config
    from consistentid.serving.replicas import Scale

    if config is None:
        return Scale()
    return build(Scale, read_config(config, "description of replicas"), str(config))
