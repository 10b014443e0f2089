"""What is explained comes as a page or as a picture, by the ending of a file's name."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Final

from markupsafe import Markup

from pipelines.report.page import TEMPLATES
from retrieval.errors import ConfigError
from retrieval.storage.files import atomic_write

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FORMS: Final = (".html", ".png")


def require_form(out: Path) -> None:
    """Refuse an ending that is not written; worth a call before long work."""
    if out.suffix.lower() not in FORMS:
        raise ConfigError(f"--out {out}: give a name that ends in {' or '.join(FORMS)}")


def write_form(
    out: Path, page: Callable[[], bytes], figure: Callable[[], Figure], dpi: int
) -> None:
    """Write the page or the figure.

    Args:
        out: a file, .html or .png.
        page: makes the page.
        figure: makes the figure.
        dpi: of the figure, in pixels an inch.

    Raises:
        ConfigError: another ending.
        WriteError: it cannot be written.
    """
    require_form(out)
    if out.suffix.lower() == ".html":
        atomic_write(out, page())
        return
    made = io.BytesIO()
    figure().savefig(made, format="png", dpi=dpi, metadata={"Software": None})
    atomic_write(out, made.getvalue())


def styled(name: str) -> Markup:
    """The report's style, and what a page has besides."""
    sheets = ((TEMPLATES / one).read_text(encoding="utf-8") for one in ("page.css", name))
    return Markup("".join(sheets))
