"""A build in parts ends with the bytes of an undivided one, whatever is killed or missing."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from pipelines.building.index import build_run, describe_part
from pipelines.building.subset import subset_of
from pipelines.config import load_config
from retrieval.descriptors import cache
from retrieval.errors import ConfigError, RunError
from retrieval.parts import BuildPart
from retrieval.photographs.table import DataSet, load_data_set
from retrieval.run import Run
from retrieval.training.split import split
from tests.pipelines import runs
from tests.pipelines.building.test_index import SMALL
from tests.pipelines.dying_build import WINDOW

ROOT = Path(__file__).parents[3]
OF = 3
# Of the 32 photographs twenty teach: the others are described beside them.
CONFIGS = {
    "hog": [*SMALL["hog"], "fit_photographs=20"],
    "rootsift-vlad": [*SMALL["rootsift-vlad"], "fit_photographs=20"],
}
Landmarks = Callable[..., tuple[int, str, str]]


def contents(run: Path) -> dict[str, Any]:
    """What a run is; what is kept of an undivided build for another whitening may be deleted."""
    return {
        name: one for name, one in runs.contents(run).items() if not name.startswith("aggregated")
    }


@pytest.fixture(autouse=True)
def small_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache, "WINDOW", WINDOW)


def index(data: Path, run: Path, name: str = "hog", *more: str) -> None:
    build_run(load_config(name, [*CONFIGS[name], *more]), load_data_set(data), run, "cpu")


def describe(data: Path, run: Path, part: str, name: str = "hog", *more: str) -> None:
    config = load_config(name, [*CONFIGS[name], *more])
    describe_part(config, load_data_set(data), run, BuildPart.parse(part), "cpu")


def refused(data: Path, run: Path, match: str, *more: str) -> None:
    """An index is refused, and nothing is changed by it."""
    before = contents(run)
    with pytest.raises(RunError, match=match):
        index(data, run, "hog", *more)
    assert contents(run) == before


@pytest.fixture(scope="module")
def parts(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of which all parts are described."""
    run = tmp_path_factory.mktemp("runs") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cache, "WINDOW", WINDOW)
        for number in (2, 1, 3):
            describe(data, run, f"{number}/{OF}")
    return run


@pytest.fixture
def run(parts: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(parts, tmp_path / "run"))


@pytest.mark.parametrize("name", sorted(CONFIGS))
def test_parts_make_the_bytes_of_an_undivided_build(data: Path, tmp_path: Path, name: str) -> None:
    index(data, tmp_path / "whole", name)
    for number in (2, 3, 1):
        describe(data, tmp_path / "run", f"{number}/{OF}", name)
    held = [len(list((tmp_path / f"run/parts/{n}-of-3").rglob("shard-*"))) for n in (1, 2, 3)]
    assert held == [2, 2, 2]
    index(data, tmp_path / "run", name)
    assert contents(tmp_path / "run") == contents(tmp_path / "whole")


@pytest.mark.slow
@pytest.mark.parametrize("last", [2, 5], ids=["learning", "describing"])
def test_a_killed_part_goes_on_to_the_same_bytes(data: Path, tmp_path: Path, last: int) -> None:
    index(data, tmp_path / "whole")
    command = [sys.executable, "-m", "tests.pipelines.dying_build", "hog", str(data)]
    dead = subprocess.run(
        [*command, str(tmp_path / "run"), str(last), f"2/{OF}", *CONFIGS["hog"]],
        cwd=ROOT, capture_output=True, check=False,
    )  # fmt: skip
    assert dead.returncode == -signal.SIGKILL, dead.stderr.decode()
    if last == 5:  # four shards taught
        refused(data, tmp_path / "run", r"lacks part 1/3, 3/3: landmarks describe DATA --part 1/3")
    for number in (1, 3):
        describe(data, tmp_path / "run", f"{number}/{OF}")
    if last == 5:
        refused(data, tmp_path / "run", "2-of-3 is not finished: landmarks describe DATA --part 2/")
    describe(data, tmp_path / "run", f"2/{OF}")
    index(data, tmp_path / "run")
    assert contents(tmp_path / "run") == contents(tmp_path / "whole")


@pytest.mark.slow
def test_parts_side_by_side_learn_once(data: Path, tmp_path: Path) -> None:
    index(data, tmp_path / "whole")
    command = [sys.executable, "-m", "tests.pipelines.dying_build", "hog", str(data)]
    begun = [
        subprocess.Popen(
            [*command, str(tmp_path / "run"), "0", f"{n}/2", *CONFIGS["hog"]], cwd=ROOT
        )
        for n in (1, 2)
    ]
    assert [one.wait() for one in begun] == [0, 0]
    index(data, tmp_path / "run")
    assert contents(tmp_path / "run") == contents(tmp_path / "whole")


def test_a_missing_part_is_named(data: Path, run: Path) -> None:
    shutil.rmtree(run / "parts/2-of-3")
    refused(data, run, r"parts lacks part 2/3: .* or copy 2-of-3 here")
    describe(data, run, "1/4")
    refused(data, run, r"parts holds parts of 3 and of 4: delete those of all but one division")
    (run / "parts/old").mkdir()
    refused(data, run, r"parts holds a folder that is no part")


def test_a_damaged_part_is_named_and_mended(data: Path, run: Path) -> None:
    shard = run / "parts/2-of-3/descriptors/000/shard-00004.safetensors"
    whole = shard.read_bytes()
    shard.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    refused(data, run, r"shard-00004\.safetensors is missing or damaged: .*--part 2/3 again")
    describe(data, run, "2/3")
    assert shard.read_bytes() == whole


def test_a_part_of_another_system_is_refused(data: Path, run: Path, tmp_path: Path) -> None:
    other = ("extractor.side=48",)
    with pytest.raises(
        RunError, match=r"otherwise than it would be here .*extractor\.side differs"
    ):
        describe(data, run, "2/3", "hog", *other)
    refused(data, run, r"otherwise than it would be here .*extractor\.side differs", *other)
    # Learnt apart, and copied here.
    describe(data, tmp_path / "apart", "2/3", "hog", *other)
    shutil.rmtree(run / "parts/2-of-3")
    shutil.copytree(tmp_path / "apart/parts/2-of-3", run / "parts/2-of-3")
    refused(data, run, r"2-of-3 was described by another system \(extractor\.\w+ differs\)")


def test_parts_of_other_photographs_are_refused(data: Path, run: Path, tmp_path: Path) -> None:
    copied = Path(shutil.copytree(data, tmp_path / "data"))
    os.utime(next((copied / "photos").iterdir()))
    with pytest.raises(RunError, match=r"parts is of other photographs .*\(cp -a, rsync -a\)"):
        describe(copied, run, "2/3")
    refused(copied, run, r"parts is of other photographs")


def test_what_is_described_is_not_described_again(data: Path, run: Path) -> None:
    index(data, run)
    before = contents(run)
    describe(data, run, "1/2")
    index(data, run)
    assert contents(run) == before


def test_an_index_cut_short_while_it_takes_parts_goes_on(
    data: Path, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(folder: Path) -> None:
        real(folder / "2-of-3")
        raise KeyboardInterrupt

    real = shutil.rmtree
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "rmtree", killed)
        with pytest.raises(KeyboardInterrupt):
            index(data, run)
    index(data, run)
    index(data, tmp_path / "whole")
    assert contents(run) == contents(tmp_path / "whole")


def test_one_part_is_described_by_one_process(data: Path, run: Path) -> None:
    own = Run(run / "parts/2-of-3")
    with own.locked(), pytest.raises(RunError, match="2-of-3 is being written by another command"):
        describe(data, run, "2/3")
    with own.locked():
        refused(data, run, "2-of-3 is being written by another command")


def test_locks_of_a_run_leave_what_parts_are_writing(run: Path) -> None:
    written = run / "parts/2-of-3/.shard.tmp"
    written.touch()
    with Run(run).locked():
        assert written.exists()


@pytest.mark.parametrize("text", ["0/3", "4/3", "3", "1/0", "a/b", "-1/3"])
def test_a_part_is_one_of_how_many(text: str) -> None:
    with pytest.raises(ConfigError, match="give a part of how many, such as 3/16"):
        BuildPart.parse(text)


@pytest.mark.slow
def test_on_the_command_line(landmarks: Landmarks, data: Path, tmp_path: Path) -> None:
    run, small = tmp_path / "run", [one for key in CONFIGS["hog"] for one in ("--set", key)]
    for part in ("1/2", "2/2"):
        code, _, err = landmarks("describe", data, "--part", part, "--run", run, "--config", "hog",
                                 "--device", "cpu", *small)  # fmt: skip
        assert code == 0, err
        assert f"part {part} is described, " in err
    code, _, err = landmarks("index", "--data", data, "--run", run, "--device", "cpu")
    assert code == 0, err
    assert f"{run}: its 2 parts are taken" in err
    index(data, tmp_path / "whole")
    assert (run / "index/index.faiss").read_bytes() == (
        tmp_path / "whole/index/index.faiss"
    ).read_bytes()


def test_a_subset_is_drawn_of_every_landmark_by_the_seed(data: Path) -> None:
    whole = load_data_set(data)
    half = subset_of(whole, 0.5, 0)
    assert half.gallery["landmark"].value_counts().tolist() == [2] * 6
    assert len(half.bank) == 4
    assert same(half, subset_of(whole, 0.5, 0))
    assert not same(half, subset_of(whole, 0.5, 1))
    assert subset_of(whole, 0.01, 0).gallery["landmark"].nunique() == 6
    assert same(subset_of(whole, None, 0), whole)
    table = pd.concat([whole.gallery, whole.bank], ignore_index=True)
    trained = split(table, 0.5, 0.5, 0).table
    assert trained["id"].tolist() == [*half.gallery["id"], *half.bank["id"]]


@pytest.mark.parametrize("share", [0.0, -1.0, 1.01, float("nan")])
def test_a_subset_is_a_share(data: Path, share: float) -> None:
    with pytest.raises(ConfigError, match="give a share above 0, at most 1"):
        subset_of(load_data_set(data), share, 0)


def same(one: DataSet, other: DataSet) -> bool:
    return one.gallery.equals(other.gallery) and one.bank.equals(other.bank)


@pytest.mark.slow
def test_a_run_of_a_subset_grows_to_all(landmarks: Landmarks, data: Path, tmp_path: Path) -> None:
    small = [one for key in CONFIGS["hog"] for one in ("--set", key)]
    command = ("index", "--data", data, "--run", tmp_path / "run", "--device", "cpu")
    code, _, err = landmarks(*command, "--config", "hog", *small, "--subset", 0.5)
    assert code == 0, err
    assert "12 photographs of 6 landmarks" in err
    code, _, err = landmarks(*command)
    assert code == 0, err
    assert "24 photographs of 6 landmarks" in err
