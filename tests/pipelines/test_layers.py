"""`landmarks layers`: the layer table as text and as JSON."""

from __future__ import annotations

import json

from typer.testing import CliRunner

from pipelines.cli import app


def said(*arguments: str) -> str:
    done = CliRunner().invoke(app, ["layers", *arguments])
    assert done.exit_code == 0, done.output
    return done.output


def test_the_table_has_a_row_a_layer_and_its_totals() -> None:
    lines = said("vgg16").splitlines()
    assert lines[0].split() == [
        "layer", "kind", "output", "activations", "MB", "weights", "parameters", "multiply-adds",
    ]  # fmt: skip
    assert len(lines) == 1 + 1 + 21 + 1 + 2
    assert lines[1].split() == ["(input)", "3", "x", "224", "x", "224", "150,528", "0.6"]
    (first,) = (line.split() for line in lines if line.startswith("classifier.0 "))
    assert first == ["classifier.0", "Linear", "4096", "4,096", "0.0", "102,760,448",
                     "102,764,544", "102,760,448"]  # fmt: skip
    assert lines[-3].split() == [
        "total", "15,087,080", "60.3", "138,344,128", "138,357,544", "15,470,264,320",
    ]  # fmt: skip
    assert "convolutions, poolings and fully connected layers" in lines[-1]
    assert "With the input they are 15,237,608." in lines[-1]


def test_the_same_as_json() -> None:
    told = json.loads(said("squeezenet1_1", "--size", "64", "--json"))
    assert (told["network"], told["size"], told["inputs"]) == ("squeezenet1_1", 64, 3 * 64 * 64)
    for column, total in told["totals"].items():
        assert sum(layer[column] for layer in told["layers"]) == total
    assert told["totals"]["parameters"] == 1_235_496
