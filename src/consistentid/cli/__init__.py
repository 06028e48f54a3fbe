"""The command line. Commands import what they need when they run, so that `--help` is instant."""

from __future__ import annotations

import errno
import logging
import sys
from collections.abc import Sequence
from typing import Any

import click

from consistentid import __version__
from consistentid.cli.dataset import dataset
from consistentid.cli.doctor import doctor
from consistentid.cli.evaluate import evaluate
from consistentid.cli.fetch import fetch
from consistentid.cli.generate import generate
from consistentid.cli.identify import identify
from consistentid.cli.inspect import inspect
from consistentid.cli.repair import repair
from consistentid.cli.serve import serve
from consistentid.cli.train import train
from consistentid.errors import ConsistentIDError


class Program(click.Group):
    """Errors are one line on stderr; exit code 2 means bad input, 130 stopped by the user, 1 anything unexpected."""

    def main(  # type: ignore[override]  # always exits
        self, args: Sequence[str] | None = None, prog_name: str | None = None, **extra: Any
    ) -> Any:
        """Run the command line and exit the process."""
        extra["standalone_mode"] = False
        try:
            sys.exit(super().main(args, prog_name or "consistentid", **extra) or 0)
        except click.exceptions.NoArgsIsHelpError as error:
            error.show()
            sys.exit(2)
        except click.UsageError as error:
            command = error.ctx.command_path if error.ctx else "consistentid"
            _fail(f"{error.format_message()} See '{command} --help'", 2)
        except (click.ClickException, ConsistentIDError) as error:
            _fail(error.format_message() if isinstance(error, click.ClickException) else str(error), 2)
        except click.Abort:
            _fail("stopped", 130)
        except OSError as error:
            if error.errno != errno.EPIPE:
                if error.filename is None:
                    _unexpected(error)
                # Of a file that a library opened, or a name that no system allows: the user's to put right.
                _fail(f"{error.filename}: {(error.strerror or str(error)).lower()}; check the path", 2)
            # The reader of our output has left, as `head` does: nobody is there to be told.
            sys.stdout = None
            sys.exit(1)
        except Exception as error:
            if _lacks_memory(error):
                _fail(
                    "there is not enough memory for this; ask for fewer or smaller pictures, try --low-memory where"
                    " there is one, close other programs, or choose another --device",
                    2,
                )
            _unexpected(error)


def _lacks_memory(error: Exception) -> bool:
    """Whether an error says so: Python's own, and those of torch, whose CPU has a text for it alone."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    return isinstance(error, RuntimeError) and any(x in str(error) for x in ("t allocate memory", "not enough memory"))


def _unexpected(error: Exception) -> None:
    if logging.getLogger("consistentid").isEnabledFor(logging.DEBUG):
        raise error
    what = f"{type(error).__name__}: {error}".rstrip(": ")
    _fail(
        f"{what}. This is unexpected; run again with --debug for the traceback, and 'consistentid doctor' for a check",
        1,
    )


def _fail(message: str, code: int) -> None:
    click.echo(f"error: {' '.join(message.split())}", err=True)
    sys.exit(code)


@click.group(cls=Program, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="consistentid")
def main() -> None:
    """New portraits of a given person: one or more photos in, a prompt in, pictures of that person out."""


for command in (generate, identify, repair, dataset, evaluate, doctor, fetch, train, serve, inspect):
    main.add_command(command)
