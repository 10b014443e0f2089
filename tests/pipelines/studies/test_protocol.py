"""Published protocols on a run: figures as by hand, crops, what fails, and what cannot be used."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import yaml
from numpy.typing import NDArray
from typer.testing import CliRunner

from pipelines import cli
from pipelines.building.index import build_run
from pipelines.config import load_config
from pipelines.studies.protocol import AS_RUN, EXACT, measure_holidays, measure_revisited
from retrieval.descriptors.hog import HogExtractor
from retrieval.errors import TableError
from retrieval.evaluation.ground_truth import read_revisited
from retrieval.evaluation.protocols import holidays_map, revisited_figures
from retrieval.photographs.decoding import read_photograph
from retrieval.photographs.table import load_data_set
from retrieval.system import System
from tests.oracles.metrics import rankings_of
from tests.photographs import blank, picture, view, write_data_set, write_photograph
from tests.pipelines.runs import LOCAL

BOX = [40.4, 50.6, 168.4, 146.6]  # left, top, right, bottom


@pytest.fixture(scope="module")
def systems(tmp_path_factory: pytest.TempPathFactory) -> dict[str, System]:
    """One that searches by descriptors, and one by words and verification too."""
    folder = tmp_path_factory.mktemp("systems")
    data = load_data_set(write_data_set(folder / "data", 6, 3, 4, 1))
    found = {}
    plain = {key: one for key, one in LOCAL.items() if key not in ("local", "search")}
    for config in (LOCAL, {**plain, "name": "plain"}):
        name = config["name"]
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(config))
        build_run(load_config(str(folder / f"{name}.yaml")), data, folder / name, "cpu")
        found[name] = System.load(folder / name, "cpu")
    return found


@pytest.fixture(scope="module")
def oxford(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four landmarks' views, one damaged; each query lies in a photograph of something else."""
    folder = tmp_path_factory.mktemp("oxford")
    database, judged = [], []
    for landmark in range(4):
        for number in range(3):
            database.append(f"place_{landmark}_{number}")
            # The published photographs lie in one folder, or in one a landmark.
            where = folder / (f"place/{landmark}" if landmark < 2 else ".")
            write_photograph(where / f"{database[-1]}.jpg", view(landmark + 1, number + 20))
        whole = picture(900, 192, 256)
        whole[51:147, 40:168] = view(landmark + 1, 30)
        write_photograph(folder / f"query_{landmark}.jpg", whole)
        places = {"easy": [0, 2], "hard": [1], "junk": []}
        shifted = {kind: [3 * landmark + one for one in here] for kind, here in places.items()}
        judged.append({"bbx": BOX, **shifted})
    (folder / "place_3_2.jpg").write_bytes(b"no photograph")
    write_photograph(folder / "place_3_1.jpg", blank())
    truth = {"imlist": database, "qimlist": [f"query_{one}" for one in range(4)], "gnd": judged}
    (folder / "gnd.json").write_text(json.dumps(truth))
    return folder


def described(system: System, photographs: Sequence[NDArray[np.uint8]]) -> NDArray[np.float32]:
    return system.describer.describe(photographs).vectors


@pytest.mark.parametrize("name", ["plain", "local"])
def test_revisited_is_as_by_hand(
    systems: dict[str, System], oxford: Path, tmp_path: Path, name: str
) -> None:
    system = systems[name]
    found = measure_revisited(system, oxford / "gnd.json", oxford, tmp_path)
    assert found == json.loads((tmp_path / "figures.json").read_text())
    assert (found["queries"], found["photographs"]) == (4, 12)
    assert found["photographs_failed"] == 2
    truth = read_revisited(oxford / "gnd.json")
    paths = {path.stem: path for path in oxford.rglob("*.jpg")}
    crops = [read_photograph(paths[one])[51:147, 40:168] for one in truth.queries]
    rows = np.full((12, 16), np.nan, np.float32)
    for row, one in enumerate(truth.database):
        if one not in ("place_3_1", "place_3_2"):  # what failed is never found
            rows[row] = described(system, [read_photograph(paths[one])])
    similarities = np.nan_to_num(described(system, crops) @ rows.T, nan=-np.inf)
    rankings = rankings_of(similarities)
    rankings = np.where(np.take_along_axis(similarities, rankings, 1) > -np.inf, rankings, -1)
    expected = revisited_figures(truth, rankings)
    for setup, wanted in expected.items():
        figures = found["figures"][EXACT][setup]
        assert figures["map"] == pytest.approx(wanted.map)
        assert [figures[f"mp{k}"] for k in (1, 5, 10)] == pytest.approx(wanted.mean_precisions)
    assert list(found["figures"]) == ([EXACT] if name == "plain" else [EXACT, AS_RUN])
    assert found["figures"][EXACT]["easy"]["map"] > 0.5


def test_words_and_verification_find_what_whole_descriptors_do_not(
    systems: dict[str, System], oxford: Path, tmp_path: Path
) -> None:
    truth = json.loads((oxford / "gnd.json").read_text())
    uncropped = [{**one, "bbx": [0, 0, 256, 192]} for one in truth["gnd"]]
    (tmp_path / "gnd.json").write_text(json.dumps({**truth, "gnd": uncropped}))
    found = measure_revisited(systems["local"], tmp_path / "gnd.json", oxford, tmp_path)["figures"]
    assert found[AS_RUN]["easy"]["map"] > found[EXACT]["easy"]["map"] + 0.1


def test_holidays_is_as_by_hand(
    systems: dict[str, System], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = [str(100_000 + 100 * group + number) for group in range(4) for number in range(3)]
    for one in ids:
        shown = view(60 + int(one) // 100, int(one) % 100)
        write_photograph(tmp_path / "photos" / f"{one}.jpg", shown)
    system = systems["plain"]
    found = measure_holidays(system, tmp_path / "photos", tmp_path / "out")
    rows = described(
        system, [read_photograph(tmp_path / "photos" / f"{one}.jpg") for one in ids]
    )  # fmt: skip
    expected = holidays_map(ids, rankings_of(rows[::3] @ rows.T))
    assert found["figures"] == {EXACT: {"all": {"map": pytest.approx(expected)}}}
    assert (found["queries"], found["photographs"]) == (4, 12)
    monkeypatch.setattr(HogExtractor, "features", None)  # nothing is described again
    assert measure_holidays(system, tmp_path / "photos", tmp_path / "out") == found


def test_what_cannot_be_used_is_named(
    systems: dict[str, System], oxford: Path, tmp_path: Path
) -> None:
    system = systems["plain"]
    truth = json.loads((oxford / "gnd.json").read_text())
    told = tmp_path / "gnd.json"
    told.write_text(json.dumps({**truth, "qimlist": ["absent", *truth["qimlist"][1:]]}))
    absent = r"absent\.jpg: no such file, which gnd\.json asks for \(1 such\)"
    with pytest.raises(TableError, match=absent):
        measure_revisited(system, told, oxford, tmp_path)
    told.write_text(json.dumps({**truth, "qimlist": ["place_3_2", *truth["qimlist"][1:]]}))
    with pytest.raises(TableError, match=r"place_3_2\.jpg: a query .* not a photograph"):
        measure_revisited(system, told, oxford, tmp_path)
    beyond = [{**truth["gnd"][0], "bbx": [300, 0, 400, 90]}, *truth["gnd"][1:]]
    told.write_text(json.dumps({**truth, "gnd": beyond}))
    with pytest.raises(TableError, match=r"query_0\.jpg: a query whose box \[300\.0, .* too few"):
        measure_revisited(system, told, oxford, tmp_path)
    with pytest.raises(TableError, match="no query of Holidays"):
        measure_holidays(system, tmp_path, tmp_path)


def test_a_query_of_nothing_finds_nothing(
    systems: dict[str, System], oxford: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    truth = json.loads((oxford / "gnd.json").read_text())
    three = {"qimlist": truth["qimlist"][:3], "gnd": truth["gnd"][:3]}
    four = {"qimlist": [*three["qimlist"], "place_3_1"]}
    maps = []
    for name, changed in (("three", three), ("four", four)):
        (tmp_path / f"{name}.json").write_text(json.dumps({**truth, **changed}))
        asked = systems["plain"], tmp_path / f"{name}.json", oxford, tmp_path / name
        maps.append(measure_revisited(*asked)["figures"][EXACT]["easy"]["map"])
    assert maps[1] == pytest.approx(maps[0] * 3 / 4)
    assert "1 queries have nothing to describe" in caplog.text


@pytest.mark.usefixtures("root_logger")
def test_the_commands_print_the_figures(
    systems: dict[str, System], oxford: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    run = ["--run", str(systems["plain"].run), "--device", "cpu"]
    asked = ["--truth", str(oxford / "gnd.json"), "--photos", str(oxford)]
    done = CliRunner().invoke(cli.app, ["protocol", "revisited", *run, *asked])
    assert done.exit_code == 0
    path = systems["plain"].run.folder / "protocols" / "gnd" / "figures.json"
    figures = json.loads(path.read_text())["figures"][EXACT]
    assert set(figures) == {"easy", "medium", "hard"}
    write_photograph(tmp_path / "100000.jpg", view(1, 1))
    write_photograph(tmp_path / "100001.jpg", view(1, 2))
    asked = ["--photos", str(tmp_path), "--out", str(tmp_path / "out")]
    assert CliRunner().invoke(cli.app, ["protocol", "holidays", *run, *asked]).exit_code == 0
    told = json.loads((tmp_path / "out" / "figures.json").read_text())
    assert told["figures"][EXACT]["all"]["map"] == 1.0
    assert told["conditions"]["config"] == "plain"
