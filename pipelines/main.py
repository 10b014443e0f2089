"""Where the `landmarks` command begins."""

from __future__ import annotations

import sys


def main() -> None:
    """Run the command line; the doctor by itself, since it has to work where a library does not."""
    try:
        if sys.argv[1:] == ["doctor"]:
            from pipelines.doctor import main as command
        else:
            from pipelines.cli import main as command
        command()
    except KeyboardInterrupt:  # while libraries are imported: as typer has it afterwards
        sys.exit(130)
