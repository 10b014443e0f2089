"""The command line: its help, its mistakes, and every stage once."""

from __future__ import annotations

import csv
import json
import re
import shlex
import sys
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import typer
import yaml

from pipelines import cli, config
from pipelines import main as entrance
from pipelines.building import shipped
from pipelines.building.proposal import Proposal
from pipelines.config import RENAMED, config_names
from retrieval.errors import LandmarksError
from retrieval.predictions import ANSWER, prediction_columns
from tests.photographs import view, write_csv, write_photograph

pytestmark = pytest.mark.usefixtures("root_logger")

ROOT = Path(__file__).parents[2]
SMALL = ["--set", "extractor.side=64", "--set", "extractor.cells=[16]",
         "--set", "whitening.dimension=16"]  # fmt: skip
Run = Callable[..., tuple[int, str, str]]


def commands(
    group: Any = None, path: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Every command with the words that call it."""
    for name, command in (group or typer.main.get_command(cli.app)).commands.items():
        yield (*path, name), command
        if hasattr(command, "commands"):
            yield from commands(command, (*path, name))


COMMANDS = dict(commands())


def leaves() -> list[tuple[str, ...]]:
    return sorted(path for path, command in COMMANDS.items() if not hasattr(command, "commands"))


@pytest.mark.parametrize("path", leaves(), ids=" ".join)
def test_help_ends_with_an_example_that_the_command_takes(
    path: tuple[str, ...], landmarks: Run
) -> None:
    _, out, _ = landmarks(*path, "--help")
    example = COMMANDS[path].epilog
    assert example.startswith("Example: ")
    assert " ".join(out.split()).endswith(example)
    words = shlex.split(example.removeprefix("Example: ").partition(" > ")[0])
    assert words[: len(path) + 1] == ["landmarks", *path]
    context = COMMANDS[path].make_context("landmarks", words[len(path) + 1 :])
    assert not context.args


def test_help_shows_the_columns_of_the_output(landmarks: Run) -> None:
    _, out, _ = landmarks("classify", "--help")
    before_options = out.partition("Arguments")[0]
    for column in prediction_columns(top=1):
        assert re.search(rf"\b{column}\b", before_options), column


@pytest.mark.slow
def test_every_stage_is_a_command() -> None:
    wanted = "demo index evaluate classify add remove config doctor data".split()
    assert {path[0] for path in COMMANDS} >= set(wanted)


def test_help_shows_the_groups(landmarks: Run) -> None:
    code, out, _ = landmarks("-h")
    assert code == 0
    panels = re.findall(r"╭─ (.+?) ─+╮(.+?)╰", out, re.DOTALL)
    told = {name: set(re.findall(r"^│ (\w+)", rows, re.MULTILINE)) for name, rows in panels}
    assert {"index", "add", "remove", "list", "train"} <= told["Build a run"]
    own = {"classify", "vote", "rethreshold", "score", "explain", "concepts", "visualise"}
    assert own == told["Answer photographs"]
    assert {"evaluate", "compare", "ablate", "protocol"} == told["Measure"]
    assert {"doctor", "config", "layers", "plan"} == told["Machine and systems"]


def test_the_version_is_the_packages(landmarks: Run) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert landmarks("--version") == (0, f"landmarks {project['version']}\n", "")


def test_a_shell_completes_commands(landmarks: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, text in (("_LANDMARKS_COMPLETE", "complete_bash"), ("COMP_WORDS", "landmarks ev"),
                       ("COMP_CWORD", "1")):  # fmt: skip
        monkeypatch.setenv(name, text)
    assert landmarks()[1].split() == ["evaluate"]


@pytest.mark.parametrize("path", sorted(COMMANDS), ids=" ".join)
def test_help_says_all(path: tuple[str, ...], landmarks: Run) -> None:
    code, out, _ = landmarks(*path, "--help")
    assert code == 0
    command = COMMANDS[path]
    assert command.help
    # Below the first paragraph lines stay as they are, and a terminal has 80 columns.
    assert all(len(line) < 79 for line in command.help.partition("\n\n")[2].splitlines())
    flat = re.sub(r"\W+", " ", out)
    for parameter in command.params:
        assert getattr(parameter, "help", None), f"{path}: {parameter.name}"
        assert re.sub(r"\W+", " ", parameter.help).split()[0] in flat
        if parameter.param_type_name == "option":
            assert parameter.opts[0] in out
    for name in getattr(command, "commands", {}):
        assert name in out


def test_without_arguments_there_is_help(landmarks: Run) -> None:
    _, out, err = landmarks()
    assert "Start with: landmarks demo" in out + err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["index", "--config", "rootsift"], "no config 'rootsift'; did you mean rootsift-vlad?"),
        (["index", "--config", "hog", "--set", "whitening.dimesion=8"],
         "--set: whitening.dimesion: no such key; did you mean dimension?"),
        (["index", "--config", "hog", "--data", "absent"], "absent is not a folder"),
        (["index", "--data", "absent", "--weights", "absent"], "absent is not a folder"),
        (["index", "--config", "mobilenet_v2-gem", "--weights", "absent.safetensors"],
         "absent.safetensors: no such weights file"),
        (["evaluate", "--run", "absent"], "absent/run.json is missing: build the run first"),
        (["classify", "absent.csv", "--run", "absent"],
         "absent.csv: cannot be read (No such file or directory)"),
        (["classify", "http://a.example/b.jpg", "--run", "absent"], "absent/run.json is missing"),
        (["rethreshold", "absent.csv", "--min-probability", "0.5", "--run", "absent"],
         "absent.csv: cannot be read"),
        (["explain", "absent.jpg", "--run", "absent"], "absent/run.json is missing"),
        (["explain", "absent.jpg", "--out", "why.gif"], "--out why.gif: give a name that ends in"),
        (["vote", "absent.csv"], "absent.csv: cannot be read (No such file or directory)"),
        (["add", "absent.csv", "--run", "absent"], "absent.csv: no such file"),
        (["remove", "x", "--run", "absent"], "absent/run.json is missing"),
        (["config", "hgo"], "no config 'hgo'; did you mean hog?"),
        (["data", "check", "absent"], "absent"),
        (["data", "fetch", "absent.csv"], "absent.csv"),
    ],
)  # fmt: skip
def test_a_mistake_is_one_line_and_exit_code_two(
    arguments: list[str], message: str, landmarks: Run, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    code, out, err = landmarks(*arguments)
    assert code == 2
    assert message in err
    assert err.startswith("landmarks: ")
    assert err.count("\n") == 1
    assert out == ""
    assert not list(tmp_path.iterdir())


def test_a_device_that_is_not_there(landmarks: Run, data: Path, tmp_path: Path) -> None:
    index = ("index", "--config", "hog", "--data", data, "--run", tmp_path / "run")
    code, _, err = landmarks(*index, "--device", "gpu")
    assert (code, err) == (2, "landmarks: device 'gpu': choose auto, cpu or cuda\n")
    if not torch.cuda.is_available():
        code, _, err = landmarks(*index, "--device", "cuda")
        assert code == 2
        assert err.startswith("landmarks: --device cuda: torch ")
        assert "or take --device cpu" in err


def test_debug_shows_where(landmarks: Run) -> None:
    with pytest.raises(LandmarksError):
        landmarks("--debug", "config", "hgo")


def test_a_bug_keeps_its_traceback(landmarks: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(config, "load_config", lambda *rest: 1 // 0)
    with pytest.raises(ZeroDivisionError):
        landmarks("config", "hog")


def test_stopping_says_how_to_go_on(landmarks: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def stopped(*rest: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(config, "load_config", stopped)
    monkeypatch.setattr("os._exit", sys.exit)
    code, _, err = landmarks("config", "hog")
    assert code == 130
    assert "the same command goes on where it was" in err


def test_stopping_while_libraries_are_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    def stopped(*rest: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("builtins.__import__", stopped)
    with pytest.raises(SystemExit) as leaving:
        entrance.main()
    assert leaving.value.code == 130


def test_an_option_that_is_none(landmarks: Run) -> None:
    code, _, err = landmarks("index", "--confg", "hog")
    assert code == 2
    assert "--confg" in err


def test_configs_are_listed_and_printed(landmarks: Run) -> None:
    code, out, _ = landmarks("config")
    assert code == 0
    assert sorted(line.split()[0] for line in out.splitlines()[1:]) == config_names()
    code, out, _ = landmarks("config", "hog", "--set", "seed=7")
    printed = yaml.safe_load(out)
    assert (printed["seed"], printed["name"]) == (7, "hog")


def test_index_without_a_config_says_what_it_takes_and_keeps_it(
    landmarks: Run, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    index = ("index", "--data", data, "--device", "cpu")
    proposed = Proposal("hog", ("hog is taken, for once", "or --config best: dear"))
    with monkeypatch.context() as patch:
        patch.setattr(shipped, "propose", lambda facts: proposed)
        code, _, err = landmarks(*index, *SMALL)
    assert code == 0, err
    assert err.splitlines()[:2] == list(proposed.lines)
    run = Path("data/runs") / data.name
    assert json.loads((run / "run.json").read_text())["name"] == "hog"
    # Rebuilt with a setting changed, by the system that it is of.
    code, _, err = landmarks(*index, "--set", "classifiers.knn.k=3")
    assert code == 0, err
    assert err.startswith(f"{run} holds hog, which is kept (--config takes another)\n")
    kept = json.loads((run / "run.json").read_text())["config"]
    assert (kept["extractor"]["side"], kept["classifiers"]["knn"]["k"]) == (64, 3)
    code, _, err = landmarks(*index, "--run", run, "--config", "rootsift-vlad")
    assert code == 2
    assert "holds another system, hog" in err
    # By the name that it had before, in the folder of that name.
    monkeypatch.setitem(RENAMED, data.name, "hog")
    code, _, err = landmarks(*index, "--config", data.name, *SMALL, "--set", "classifiers.knn.k=3")
    assert code == 0, err
    assert err.startswith(f"{data.name} is now called hog\n")
    assert f"{run}: nothing changed, nothing to do" in err


def test_every_stage(landmarks: Run, data: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    on_cpu = ("--run", run, "--device", "cpu")
    index = ("index", "--config", "hog", "--data", data, *on_cpu, *SMALL)

    code, _, err = landmarks(*index)
    assert code == 0, err
    assert "24 photographs of 6 landmarks" in err
    assert "8 photographs of none" in err
    assert "nothing to do" in landmarks(*index)[2]

    code, _, err = landmarks("evaluate", *on_cpu)
    assert code == 0, err
    assert (run / "evaluation" / "report.html").stat().st_size > 1000
    assert json.loads((run / "evaluation" / "metrics.json").read_text())

    new = [
        (f"new{i}", write_photograph(tmp_path / f"{i}.jpg", view(77, i)), "L77") for i in range(5)
    ]
    code, _, err = landmarks("add", write_csv(tmp_path / "new.csv", new[:4]), *on_cpu)
    assert code == 0, err
    assert "28 photographs of 7 landmarks" in err

    rows = [new[4][:2], ("gone", "gone.jpg"), ("again", new[4][1])]
    listed = write_csv(tmp_path / "list.csv", rows, ("id", "path"))
    out = tmp_path / "out.csv"
    classify = ("classify", listed, "--out", out, *on_cpu)
    code, _, err = landmarks(*classify)
    assert code == 0, err
    assert "3 rows: 2 show a landmark, 0 none, 1 failed" in err
    with out.open(newline="") as file:
        written = list(csv.DictReader(file))
    assert [(row["id"], row["landmark"], row["status"]) for row in written] == [
        ("new4", "L77", "ok"), ("gone", "", "decode_failed"), ("again", "L77", "ok")
    ]  # fmt: skip
    answered = out.read_bytes()
    code, _, err = landmarks(*classify, "--frequency-ban", 1)
    assert code == 0, err
    assert "finished already, nothing to do" in err
    assert "2 rows of landmarks" in err
    banned, merged = tmp_path / "out.banned.csv", tmp_path / "merged.csv"
    assert banned.read_text().count("L77 is answered for 2 rows") == 2
    assert "no probabilities: " in err, "so small a gallery has too few to learn them from"
    assert {row["probability"] for row in written} == {""}
    code, _, err = landmarks("vote", out, out, "--out", merged)
    assert code == 2, "a vote is by probability"
    assert f"{out}, row 2: no probability, which a vote needs" in err
    sure = [{**row, "probability": row["landmark"] and "0.75"} for row in written]
    with (tmp_path / "sure.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(written[0]))
        writer.writeheader()
        writer.writerows(sure)
    code, _, err = landmarks("vote", tmp_path / "sure.csv", tmp_path / "sure.csv", "--out", merged)
    assert code == 0, err
    assert "3 rows: 2 show a landmark, 0 none, 1 failed" in err
    assert out.read_bytes() == answered
    with merged.open(newline="") as file:
        assert list(csv.DictReader(file)) == [{key: row[key] for key in ANSWER} for row in sure]

    code, out_, err = landmarks("classify", new[4][1], "http://127.0.0.1/a.jpg", *on_cpu)
    assert code == 1, "one failed"
    told = [line.split(maxsplit=1) for line in out_.splitlines()]
    assert [line[0] for line in told] == [
        str(new[4][1]), "answer", "candidates",
        *[line[0] for line in told[3:5]], "nearest", *[line[0] for line in told[6:8]],
        "http://127.0.0.1/a.jpg", "fetch", "--allow-private",
    ]  # fmt: skip
    assert told[1][1].strip() == "L77"
    assert told[2][1].startswith("L77 ")
    assert all(one.startswith("new") for one in (told[5][1], *(line[0] for line in told[6:8])))
    assert "no probabilities: " in err
    assert "the address is not a public one" in told[-2][1]
    assert sorted(path.name for path in tmp_path.iterdir() if "predictions" in path.name) == []

    code, _, err = landmarks("remove", "new0", "new1", "new2", "new3", *on_cpu)
    assert code == 0, err
    assert "24 photographs of 6 landmarks" in err
    code, _, err = landmarks(*classify)
    assert code == 2
    assert err.startswith(f"landmarks: {out}")
    assert err.count("\n") == 1
