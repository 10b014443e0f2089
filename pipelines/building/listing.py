"""The shipped systems as a list, with what each was measured to do.

Read as YAML alone: what makes a config of it needs every library of the work, and takes seconds.
"""

from __future__ import annotations

from functools import cache
from typing import Any, Final

from pipelines.building.proposal import ShippedFigures
from pipelines.config import CONFIGS, config_names, read_config

MEASURED: Final = CONFIGS.parent / "measured.yaml"
COLUMNS: Final = ("system", "top-1", "GAP", "ms", "bytes", "weights", "description")
HEADING: Final = "{:<30} {:>5} {:>5} {:>5} {:>6}  {:<7}  {}"


@cache
def measured_figures() -> dict[str, ShippedFigures]:
    """What the shipped systems were measured to do, by name."""
    return {name: ShippedFigures.model_validate(one) for name, one in read_config(MEASURED).items()}


def list_lines() -> list[str]:
    """The shipped systems, a line each below a heading: the best first, then those unmeasured."""
    figures = measured_figures()
    nothing = ShippedFigures()

    def place(name: str) -> tuple[float, str]:
        accuracy = figures.get(name, nothing).gallery
        return (0.0 if accuracy is None else -accuracy.gap, name)

    lines = [HEADING.format(*COLUMNS)]
    for name in sorted(config_names(), key=place):
        config, one = read_config(CONFIGS / f"{name}.yaml"), figures.get(name, nothing)
        exact = ["", ""] if one.gallery is None else [one.gallery.top1, one.gallery.gap]
        cells = [format(number, ".3f") if number else "" for number in exact]
        time = "" if one.milliseconds is None else f"{one.milliseconds:.3g}"
        needs = "needed" if _is_pretrained(config) else "none"
        told = config["description"]
        lines.append(HEADING.format(name, *cells, time, one.bytes or "", needs, told))
    return lines


def _is_pretrained(value: Any) -> bool:
    """Whether a config as written, or one in it, is of a network that comes with parameters."""
    if isinstance(value, dict):
        network = "trunk" in value or value.get("kind") in ("cnn", "delf", "aliked")
        if network and value.get("weights") != "none":
            return True
        value = list(value.values())
    return isinstance(value, list) and any(map(_is_pretrained, value))
