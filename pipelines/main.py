"""Where the `landmarks` command begins."""

from __future__ import annotations

import os
import sys
from typing import Final

INTERRUPTED: Final = 130
"""What a command that was stopped by Ctrl-C exits with."""


def main() -> None:
    """Run the command line; the doctor by itself, since it has to work where a library does not."""
    if sys.argv[1:] == ["doctor"]:
        from pipelines.doctor import main as doctor

        doctor()
    else:
        from pipelines.cli import main as command

        try:
            command()
        except SystemExit as leaving:
            if leaving.code == INTERRUPTED:
                # At once: the interpreter would wait for every photograph that is being decoded.
                sys.stdout.flush()
                sys.stderr.flush()
                os._exit(INTERRUPTED)
            raise
