"""The documentation: what it names is there, what it shows works, and its walk is walked."""

from __future__ import annotations

import ast
import importlib
import importlib.util
import pydoc
import re
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import typer
import yaml

from pipelines.building.index import build_run
from pipelines.cli import app
from pipelines.config import load_config
from retrieval.index.gallery import Gallery, GalleryChange
from retrieval.photographs.table import load_data_set
from retrieval.system import System
from tests.photographs import blank, features_of, picture, write_data_set
from tests.retrieval.classifiers.galleries import clusters, gallery_of

ROOT = Path(__file__).parents[1]
PAGES = sorted(
    [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "benchmarks").rglob("*.md")]
)
pages = pytest.mark.parametrize("page", PAGES, ids=[str(page.relative_to(ROOT)) for page in PAGES])
COMMAND: Any = typer.main.get_command(app)
PATH = re.compile(r"(?:retrieval|pipelines|tests|benchmarks|docs)(?:/[\w.-]+)*/?")
MODULE = re.compile(r"(?:retrieval|pipelines)(?:\.\w+)+")
FENCE = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)


def blocks(page: Path, *kinds: str) -> list[str]:
    """The code blocks of some languages."""
    return [code for kind, code in FENCE.findall(page.read_text()) if kind in kinds]


def spans(page: Path) -> list[str]:
    """What stands between backticks within sentences."""
    return re.findall(r"`([^`]+)`", FENCE.sub("", page.read_text()))


def slugs(page: Path) -> set[str]:
    """The anchors of a page's headings."""
    headings = re.findall(r"^#+ (.*)$", FENCE.sub("", page.read_text()), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", one.lower()).replace(" ", "-") for one in headings}


def calls(page: Path) -> Iterator[list[str]]:
    """The words behind each ``landmarks`` that a page shows."""
    shown = [re.sub(r"\\\n", " ", block) for block in blocks(page, "sh", "")]
    lines = [*"\n".join(shown).splitlines(), *spans(page)]
    for line in lines:
        for call in re.split(r"[|;#]|&&", line):
            _, found, rest = call.partition("landmarks ")
            if found and re.match("[a-z]", rest):
                yield rest.split()


@pages
def test_what_is_named_is_there(page: Path) -> None:
    for name in spans(page):
        if PATH.fullmatch(name):
            assert (ROOT / name).exists(), name
    for name in MODULE.findall(page.read_text()):
        assert name.endswith((".py", ".md", ".yaml")) or pydoc.locate(name), name


@pages
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", FENCE.sub("", page.read_text())):
        if "://" not in target:
            path, _, anchor = target.partition("#")
            there = (page.parent / path) if path else page
            assert there.exists(), target
            assert not anchor or anchor in slugs(there), target


@pages
def test_commands_that_are_shown_can_be_given(page: Path) -> None:
    for words in calls(page):
        command: Any = COMMAND
        while hasattr(command, "commands") and words and not words[0].startswith("-"):
            assert words[0] in command.commands, words
            command = command.commands[words.pop(0)]
            assert not command.hidden, words
        known = {option for one in command.params for option in one.opts} | {"--help"}
        assert {word.partition("=")[0] for word in words if word.startswith("--")} <= known, words


def test_every_page_is_in_the_index() -> None:
    index = (ROOT / "docs/README.md").read_text() + (ROOT / "docs/log/README.md").read_text()
    for page in (ROOT / "docs").rglob("*.md"):
        assert page.name == "README.md" or f"({page.name})" in index, page


def test_rooms_are_told() -> None:
    told = set(spans(ROOT / "docs/architecture.md"))
    for package in ("retrieval", "pipelines"):
        rooms = {path.name for path in (ROOT / package).iterdir() if path.is_dir()}
        assert rooms - {"__pycache__"} <= told


def test_the_walk_of_a_photograph_is_walked(tmp_path: Path) -> None:
    data, run = write_data_set(tmp_path / "data"), tmp_path / "run"
    build_run(load_config("hog"), load_data_set(data), run, "cpu")
    system = System.load(run, "cpu")
    entered: dict[str, None] = {}

    def watch(frame: Any, event: str, _: object) -> None:
        path = frame.f_code.co_filename
        if event == "call" and path.startswith(str(ROOT)):
            entered.setdefault(str(Path(path).relative_to(ROOT)))

    threading.setprofile(watch)
    sys.setprofile(watch)
    try:
        system.classify(data / "photos/m1v5.jpg")
    finally:
        sys.setprofile(None)
        threading.setprofile(None)
    text = (ROOT / "docs/architecture.md").read_text()
    walk = text[text.index("\n1. ") : text.index("\n\n", text.index("\n1. "))]
    named = list(dict.fromkeys(re.findall(r"retrieval/[\w/]+\.py", walk)))
    assert [path for path in entered if path in named] == named
    # No room is passed over. What lies beside the rooms is the ground floor.
    rooms = {path.rpartition("/")[0] for path in entered if path.startswith("retrieval/")}
    assert rooms == {path.rpartition("/")[0] for path in named}


@pytest.fixture(scope="module")
def examples(tmp_path_factory: pytest.TempPathFactory) -> dict[str, ModuleType]:
    """The modules of extending.md, by name."""
    found = {}
    for code in blocks(ROOT / "docs/extending.md", "python"):
        first = re.match(r"# (retrieval/\w+)/(\w+)\.py\n", code)
        assert first
        assert (ROOT / first[1]).is_dir()
        path = tmp_path_factory.mktemp("example") / f"{first[2]}.py"
        path.write_text(code)
        spec = importlib.util.spec_from_file_location(f"example_{first[2]}", path)
        assert spec
        assert spec.loader
        module = importlib.util.module_from_spec(spec)
        sys.modules[spec.name] = module
        spec.loader.exec_module(module)
        found[first[2]] = module
    return found


def test_the_example_of_a_config(tmp_path: Path) -> None:
    (code,) = blocks(ROOT / "docs/extending.md", "yaml")
    (tmp_path / "mine.yaml").write_text(code)
    assert load_config(str(tmp_path / "mine.yaml")).name == yaml.safe_load(code)["name"]


def test_the_example_of_an_extractor(examples: dict[str, ModuleType]) -> None:
    colour = examples["colour"]
    extractor = colour.ColourExtractor(colour.ColourConfig())
    rows = extractor.aggregate(features_of(extractor, [picture(1), picture(2, 300, 7), blank()]))
    assert rows.shape == (3, extractor.dimension)
    assert np.linalg.norm(rows, axis=1) == pytest.approx(1)
    # All of a grey photograph lies in one bin of each tile.
    assert sorted(rows[2])[-16:] == pytest.approx([0.25] * 16)


def test_the_examples_of_a_detector_and_an_aggregation(examples: dict[str, ModuleType]) -> None:
    corners, mean = examples["shi_tomasi"], examples["mean"]
    detector = corners.ShiTomasiDetector(corners.ShiTomasiConfig(keypoints=50))
    many, none, tiny = features_of(detector, [picture(1), blank(), picture(2, 5, 5)])
    assert len(many) == 50
    assert len(none) == len(tiny) == 0
    aggregator = mean.Mean(mean.MeanConfig(power=1.0), detector.dimension)
    rows = aggregator.fit([many], 0, "cpu").aggregate([many, none])
    expected = many.descriptors.mean(axis=0)
    assert rows[0] == pytest.approx(expected / np.linalg.norm(expected), abs=1e-6)
    assert not rows[1].any()


def test_the_example_of_a_classifier(examples: dict[str, ModuleType], tmp_path: Path) -> None:
    nearest = examples["nearest"]
    gallery: Gallery = clusters(5, 6, 10, 0.4)
    queries = clusters(5, 4, 0, 0.4)
    fitted = nearest.NearestClassifier.fit(nearest.NearestConfig(), gallery)
    found = gallery.searcher.search(queries.vectors, fitted.neighbours)
    scores = fitted.scores(queries.vectors, found)
    assert scores.best.tolist() == gallery.codes[found.rows[:, 0]].tolist()
    assert scores.confidence == pytest.approx(found.similarities[:, 0])
    held_out = nearest.NearestClassifier.held_out(nearest.NearestConfig(), gallery)
    assert held_out.gallery.confidence.max() < 1  # none is compared with itself
    assert len(held_out.bank) == 10
    fitted.save(tmp_path)
    loaded = nearest.NearestClassifier.load(tmp_path, gallery)
    assert np.array_equal(loaded.scores(queries.vectors, found).values, scores.values)
    left = np.arange(len(gallery.codes)) % 3 > 0
    fewer = gallery_of(gallery.vectors[left], gallery.codes[left])
    change = GalleryChange(gallery.codes, gallery.landmarks, left)
    updated = nearest.NearestClassifier.updated(tmp_path, fewer, change, 0)
    found = fewer.searcher.search(queries.vectors, updated.neighbours)
    best = updated.scores(queries.vectors, found).best
    assert best.tolist() == fewer.codes[found.rows[:, 0]].tolist()


def test_hooks_run_what_make_lint_runs() -> None:
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"][0]["hooks"]
    lint = re.search(r"^lint:.*\n((?:\t.*\n)+)", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert lint
    wanted = [line.strip().replace("$(BIN)", ".venv/bin") for line in lint[1].splitlines()]
    assert [hook["entry"] for hook in hooks] == wanted


def test_python_that_is_shown_can_be_read() -> None:
    for page in PAGES:
        for code in blocks(page, "python"):
            for node in ast.walk(ast.parse(code)):
                if isinstance(node, ast.ImportFrom) and node.module:
                    module = importlib.import_module(node.module)
                    assert all(hasattr(module, one.name) for one in node.names), code
