"""`landmarks layers`: a network's layer table as text."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from retrieval.networks.layer_table import BYTES, COUNTED, Layer, LayerTable

HEADINGS: Final = (
    "layer", "kind", "output", "activations", "MB", "weights", "parameters", "multiply-adds",
)  # fmt: skip
WORDS: Final = 3
"""Columns of words, to the left."""


def table_lines(table: LayerTable) -> Iterator[str]:
    """A row a layer, the totals, and what was counted."""
    side = f"{table.size} x {table.size}"
    head = [
        HEADINGS,
        ("(input)", "", f"3 x {side}", *_numbers(table.inputs), "", "", ""),
        *(_row(layer) for layer in table.layers),
        _totals(table),
    ]
    widths = [max(map(len, column)) for column in zip(*head, strict=True)]
    for row in head:
        cells = [
            cell.ljust(width) if i < WORDS else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        yield "  ".join(cells).rstrip()
    yield ""
    with_input = table.total("activations") + table.inputs
    yield f"{COUNTED} With the input they are {with_input:,}."


def _row(layer: Layer) -> tuple[str, ...]:
    shape = " x ".join(map(str, layer.shape or ()))
    counts = (layer.weights, layer.parameters, layer.multiply_adds)
    return (
        layer.name or "(whole)", layer.kind, shape, *_numbers(layer.activations),
        *(f"{count:,}" if count else "" for count in counts),
    )  # fmt: skip


def _totals(table: LayerTable) -> tuple[str, ...]:
    counts = (table.total(column) for column in ("weights", "parameters", "multiply_adds"))
    return (
        "total", "", "", *_numbers(table.total("activations")),
        *(f"{count:,}" for count in counts),
    )  # fmt: skip


def _numbers(activations: int) -> tuple[str, str]:
    """How many, and how many megabytes they take."""
    return (f"{activations:,}", f"{activations * BYTES / 1e6:.1f}") if activations else ("", "")
