"""The `landmarks` command: one file a group of commands, thin over the stages' functions."""

from __future__ import annotations

import logging
import os
import sys
from importlib.metadata import version
from typing import Annotated, Final

import typer

from pipelines.cli import answering, building, data, explaining, machine, measuring
from pipelines.progress import say
from retrieval.errors import LandmarksError

# Stages are imported where they are called: torch and its kin take seconds, and `--help` needs
# none of them.

app = typer.Typer(
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    pretty_exceptions_enable=False,
    help="Recognise landmarks in photographs, or say that there is none.",
    epilog="Start with: landmarks demo",
)
app.add_typer(building.app)
app.add_typer(answering.app)
app.add_typer(explaining.app)
app.add_typer(measuring.app)
app.add_typer(measuring.protocol_app, name="protocol", rich_help_panel=measuring.PANEL)
app.add_typer(data.app, name="data", rich_help_panel="Photographs")
app.add_typer(machine.app)


class _Said(logging.Handler):
    """Log messages, beside a progress bar where there is one."""

    def emit(self, record: logging.LogRecord) -> None:
        """Say it."""
        say(self.format(record))


def _tell_version(asked: bool) -> None:
    if asked:
        typer.echo(f"landmarks {version('landmark-retrieval')}")
        raise typer.Exit


@app.callback()
def root(
    debug: Annotated[
        bool, typer.Option("--debug", help="Show tracebacks, and more of what goes on.")
    ] = False,
    told: Annotated[
        bool,
        typer.Option("--version", help="Say the version.", callback=_tell_version, is_eager=True),
    ] = False,
) -> None:
    """Recognise landmarks in photographs, or say that there is none."""
    level = logging.DEBUG if debug else logging.INFO
    logging.basicConfig(level=level, format="%(message)s", handlers=[_Said()], force=True)
    for noisy in ("asyncio", "aiohttp", "faiss", "matplotlib", "PIL", "fontTools"):
        logging.getLogger(noisy).setLevel(logging.WARNING)


def _mistake(error: Exception) -> str | None:
    """What to tell whoever made a mistake; ``None`` for a bug.

    A file that cannot be read or written, a full disk, and a GPU that gives out are the user's to
    mend.
    """
    if isinstance(error, LandmarksError):
        return str(error)
    if not isinstance(error, OSError):
        from retrieval.devices import gpu_mistake

        return gpu_mistake(error)
    if error.filename is not None:
        return f"{error.filename}: {error.strerror}"
    from retrieval.storage.files import FULL

    return f"{error.strerror}: {FULL[error.errno]}" if error.errno in FULL else None


INTERRUPTED: Final = 130
"""What typer makes of Ctrl-C."""


def main() -> None:
    """Run the command; a user's mistake is one line and exit code 2, a bug a traceback."""
    try:
        app(prog_name="landmarks")
    except (LandmarksError, OSError, RuntimeError) as error:
        message = _mistake(error)
        if "--debug" in sys.argv or message is None:
            raise
        say(f"landmarks: {message}", style="red")
        sys.exit(LandmarksError.exit_code)
    except SystemExit as leaving:
        if leaving.code == INTERRUPTED:
            say("landmarks: stopped; the same command goes on where it was", style="yellow")
            # At once: the interpreter would wait for every photograph that is being decoded.
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(INTERRUPTED)
        raise
