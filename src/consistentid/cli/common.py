"""What the commands share: options, quiet libraries, output for people or for machines."""

from __future__ import annotations

import logging
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from consistentid.errors import ArgumentError, InputError

if TYPE_CHECKING:
    from consistentid.faces.caption import Captioner
    from consistentid.faces.sight import Sight
    from consistentid.pipeline.pipeline import ConsistentIDPipeline
    from consistentid.presets.preset import Preset
    from consistentid.provenance.marks import Provenance

EXISTING = click.Path(path_type=Path)
"""A path whose existence the reader of the file checks, since it words the error better."""


def _set_debug(_context: click.Context, _option: click.Parameter, debug: bool) -> None:
    logging.getLogger("consistentid").setLevel(logging.DEBUG if debug else logging.WARNING)


debug_option = click.option(
    "--debug",
    is_flag=True,
    expose_value=False,
    is_eager=True,
    callback=_set_debug,
    help="Show where errors come from, and warnings.",
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON document instead of text.")
preset_option = click.option(
    "--preset", default="drawn", show_default=True, help="Name of a preset, a YAML file, or a folder with preset.yaml."
)
device_option = click.option("--device", help="cpu, cuda, cuda:1, mps, ...  [default: the best there is]")
dtype_option = click.option(
    "--dtype",
    type=click.Choice(["auto", "float32", "float16", "bfloat16"]),
    help="Number format  [default: the preset's]",
)
face_index_option = click.option(
    "--face-index",
    type=click.IntRange(min=0),
    help="Which face, when photos show several; 0 is the largest. For one photo: PHOTO#1.",
)
skip_bad_option = click.option(
    "--skip-bad", is_flag=True, help="Leave out photos without a usable face of the person, and name them."
)
show_option = click.option(
    "--show", type=EXISTING, help="Also draw what was seen of the photos, and what the adapter sees, into this picture."
)
SHOWN = (".png", ".jpg", ".jpeg", ".webp")
"""What the file of `--show` may end in."""
captioner_option = click.option(
    "--captioner",
    metavar="ID",
    help="Vision-language model (hub id or folder) that puts the face into words, such as llava-hf/llava-1.5-7b-hf.",
)


_PROVENANCE = (
    click.option(
        "--certificate",
        type=EXISTING,
        envvar="CONSISTENTID_CERTIFICATE",
        help="Sign pictures (C2PA): the signer's certificate in PEM form, then those that vouch for it.",
    ),
    click.option(
        "--private-key", type=EXISTING, envvar="CONSISTENTID_PRIVATE_KEY", help="The certificate's key, in PEM form."
    ),
    click.option(
        "--watermark/--no-watermark",
        default=True,
        show_default=True,
        help="The invisible mark of AI-generated pictures; the record stays in either case.",
    ),
)


def provenance_options(command: Callable[..., None]) -> Callable[..., None]:
    """Which marks pictures get; the command is called with what `read_provenance` takes."""
    for option in reversed(_PROVENANCE):
        command = option(command)
    return command


def read_provenance(certificate: Path | None, private_key: Path | None, *, watermark: bool) -> Provenance:
    """What `provenance_options` say.

    Raises:
        InputError: a certificate or key alone, or one that cannot sign.
    """
    from consistentid.provenance.credentials import Signer
    from consistentid.provenance.marks import Provenance

    if certificate is None and private_key is None:
        return Provenance(watermark)
    if certificate is None or private_key is None:
        given, lacking = ("--certificate", "--private-key")[:: 1 if certificate else -1]
        raise InputError(f"{given} needs {lacking}; give both, or leave both out")
    return Provenance(watermark, Signer.load(certificate, private_key))


low_memory_option = click.option(
    "--low-memory",
    is_flag=True,
    help="Keep on the GPU only the network that computes, and decode pictures singly and in tiles: slower, smaller.",
)


def split_index(photo: Path, face_index: int | None) -> tuple[Path, int | None]:
    """A photo and which face of it: ``photo.jpg#1`` says so itself, unless there is a file of that very name."""
    name, mark, number = photo.name.rpartition("#")
    if mark and name and number.isdecimal() and not photo.exists():
        return photo.with_name(name), int(number)
    return photo, face_index


def check_show(show: Path | None, *, force: bool = False) -> None:
    """Makes sure that the picture of `--show` can be written, before anything slow.

    Raises:
        InputError: it cannot.
    """
    from consistentid.files.writing import check_folder

    if show is None:
        return
    if show.suffix.lower() not in SHOWN:
        raise InputError(f"--show {show}: cannot be told to be a picture; end its name in {', '.join(SHOWN)}")
    if show.is_dir():
        raise InputError(f"{show}: is a folder; name a file in it")
    if show.exists() and not force:
        raise InputError(f"{show}: is there already; choose another name")
    check_folder(show.parent)


def write_show(show: Path, studio: ConsistentIDPipeline, sights: Sequence[Sight]) -> None:
    """The picture of `--show`."""
    from consistentid.adapter.identify import best_parts
    from consistentid.faces.overlay import draw_sights
    from consistentid.files.writing import replacing

    spec = studio.adapter.spec
    with replacing(show) as temporary:
        draw_sights(sights, best_parts(sights, spec.part_layout, spec.canvas_size)).save(temporary)


def warn_of(sights: Sequence[Sight]) -> None:
    """A note on stderr for each photo whose face is hard to see."""
    for sight in sights:
        if sight.face.warnings:
            click.echo(f"note: {sight.name}: {', '.join(sight.face.warnings)}", err=True)


def load_pipeline(preset: Preset, device: str | None, dtype: str | None, **options: Any) -> ConsistentIDPipeline:
    """The preset's networks, loaded without the chatter of the libraries unless --debug asks for it."""
    quiet()
    from consistentid.pipeline.pipeline import ConsistentIDPipeline

    return ConsistentIDPipeline(preset, device=device, dtype=dtype, **options)


def load_captioner(name: str | None, studio: ConsistentIDPipeline) -> Captioner | None:
    """The vision-language model of that name, where the pipeline computes; none without a name."""
    if name is None:
        return None
    from consistentid.faces.caption import Captioner

    return Captioner.from_pretrained(name, studio.device)


def quiet(*, notes: bool = True) -> None:
    """Keep the chatter of the libraries from the user, unless --debug asks for it.

    Args:
        notes: show what this package warns of; a service does not, for it may hold words of a client.
    """
    if logging.getLogger("consistentid").isEnabledFor(logging.DEBUG):
        return
    if notes:
        # Libraries warn their developers; what this package warns of, as of a sentence that was cut, concerns the user.
        warnings.simplefilter("ignore")
        warnings.filterwarnings("always", category=UserWarning, module=r"consistentid\.")
        from tqdm import tqdm

        told: set[str] = set()  # of several people or pictures the same may be said

        def tell(message: Warning | str, *_: Any, **__: Any) -> None:
            if str(message) not in told:
                told.add(str(message))
                tqdm.write(f"note: {message}", file=sys.stderr)  # it takes a bar that is being drawn out of the way

        warnings.showwarning = tell
    from consistentid.files.workers import quiet_libraries

    quiet_libraries()


def progress_bar(unit: str) -> Callable[[int, int], None]:
    """A callback `(done, total)` that draws a bar on stderr, if that is a terminal; see `named_bars`."""
    show = named_bars(unit)
    return lambda done, total: show("", done, total)


def named_bars(unit: str = "it") -> Callable[[str, int, int], None]:
    """A callback `(what, done, total)` that draws a bar on stderr for each kind of work, one after another.

    A bar is gone when its work is done, so that results have lines of their own; so it is when the command fails. Where
    stderr is no terminal none is drawn.
    """
    bars: dict[str, Any] = {}

    def close() -> None:
        for bar in bars.values():
            bar.close()
        bars.clear()

    def show(what: str, done: int, total: int) -> None:
        if what not in bars:
            from tqdm import tqdm

            close()
            # what was there already is not speed
            bars[what] = tqdm(total=total, initial=done, desc=what or None, unit=unit, leave=False, disable=None)
            click.get_current_context().call_on_close(close)
        bars[what].update(done - bars[what].n)
        if done >= total:
            close()

    return show


@contextmanager
def named_as(options: Mapping[str, str]) -> Iterator[None]:
    """Errors about a call's arguments speak of the options that gave them, such as ``{"scale": "--id-scale"}``."""
    try:
        yield
    except ArgumentError as error:
        raise InputError(error.named(options)) from None


def print_json(data: Mapping[str, Any]) -> None:
    """One JSON document on stdout."""
    from consistentid.files.output import encode_json

    click.echo(encode_json(data).decode(), nl=False)
