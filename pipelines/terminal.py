"""Answers for people: photographs that were named one by one, on the terminal."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Final

from rich.console import Console
from rich.text import Text

from pipelines.answering.classify import (
    ALLOW,
    CHUNK_ROWS,
    PRIVATE,
    Answering,
    Answers,
    Form,
    answers,
)
from pipelines.lists.inputs import Input
from pipelines.lists.journal import Item, chunks
from retrieval.photographs.fetch_config import FetchConfig
from retrieval.storage.shards import OK

WIDTH: Final = 17
NEAR: Final = 3
"""Gallery photographs shown."""


def show(
    system: Answers,
    given: Input,
    fetch: FetchConfig,
    top: int,
    urls_only: bool,
    name: Callable[[str], str] = str,
) -> int:
    """Classify photographs and print their answers, on standard output.

    Args:
        system: a built run.
        given: the photographs.
        fetch: limits of the downloads.
        top: candidates shown.
        urls_only: refuse paths.
        name: a landmark's readable name.

    Returns:
        how many photographs failed.
    """
    form = Form(top=top, near=NEAR)
    every = chunks((Item(row, None) for row in given.rows()), CHUNK_ROWS)
    todo = ([one.row for one in chunk] for chunk in every)
    console = Console(markup=False, highlight=False, soft_wrap=True)
    failed, private = 0, False
    for records in answers(system, todo, Answering(form, fetch, urls_only=urls_only)):
        for record in records:
            told = dict(zip(form.columns, record, strict=True))
            failed += told["status"] != OK
            private |= told["reason"].startswith(PRIVATE)
            console.print(Text(_printable(told["id"]), style="bold"))
            for what, line in _lines(told, top, name):
                console.print(f"  {what:<{WIDTH}}{_printable(line)}")
    if private:
        console.print(ALLOW)
    return failed


def _printable(text: str) -> str:
    """Without what would steer the terminal: names come from strangers too."""
    return "".join(one if one.isprintable() else ascii(one)[1:-1] for one in text)


def _lines(
    told: Mapping[str, str], top: int, name: Callable[[str], str]
) -> Iterator[tuple[str, str]]:
    if told["status"] != OK:
        yield told["status"].replace("_", " "), told["reason"]
        return
    yield "answer", _named(told["landmark"], told["name"]) if told["landmark"] else "none"
    if told["probability"]:
        of = "" if told["landmark"] else ", of the best candidate"
        yield "probability", f"{float(told['probability']):.3f}{of}"
    for i in range(1, top + 1):
        if told[f"candidate_{i}"]:
            candidate, score = told[f"candidate_{i}"], float(told[f"score_{i}"])
            yield (
                "candidates" if i == 1 else "",
                f"{_named(candidate, name(candidate))}  {score:.4g}",
            )
    for i in range(1, NEAR + 1):
        suffix = f"_{i}" if i > 1 else ""
        if told["nearest" + suffix]:
            similarity = float(told["similarity" + suffix])
            yield "nearest" if i == 1 else "", f"{told['nearest' + suffix]}  {similarity:.3f}"


def _named(landmark: str, name: str) -> str:
    return landmark if name == landmark else f"{name} ({landmark})"
