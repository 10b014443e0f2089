"""What `make` and pip are told: Makefile, pyproject.toml, constraints.txt and the CI script."""

from __future__ import annotations

import os
import re
import shutil
import stat
import subprocess
import tomllib
from importlib import metadata
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from setuptools import find_packages

from pipelines.doctor import read_pins

ROOT = Path(__file__).parents[1]
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())
MAKEFILE = (ROOT / "Makefile").read_text()
STAGES = ["demo", "data", "index", "evaluate", "classify", "doctor"]

needs_make = pytest.mark.skipif(shutil.which("make") is None, reason="needs make")


def make(*arguments: str, folder: Path = ROOT) -> subprocess.CompletedProcess[str]:
    # Free of what a surrounding make hands down, such as that TESTS= or DATA= was given to it.
    handed_down = re.compile("MAKE.*|MFLAGS|DATA|CONFIG|RUN|DEVICE|WEIGHTS|CSV|OUT|TESTS")
    environment = {k: v for k, v in os.environ.items() if not handed_down.fullmatch(k)}
    return subprocess.run(
        ["make", "--no-print-directory", *arguments],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def recipe(*arguments: str) -> str:
    """What make would run for these arguments in an environment that is up to date."""
    done = make("--dry-run", "--assume-old=.venv/installed", *arguments)
    assert done.returncode == 0, done.stderr
    return done.stdout


@needs_make
def test_bare_make_is_help_and_lists_every_target() -> None:
    said = make().stdout
    assert said == make("help").stdout
    phony = re.search(r"^\.PHONY: (.*)$", MAKEFILE, re.MULTILINE)
    assert phony
    targets = phony[1].split()
    others = "help setup demo-train test test-fast lint bench gpu clean".split()
    assert {*STAGES, *others} == set(targets)
    for target in targets:
        assert re.search(rf"^  {target} +\w", said, re.MULTILINE), target
    for variable in re.findall(r"^(\w+) +\?=", MAKEFILE, re.MULTILINE):
        assert f"  {variable}=" in said


@needs_make
@pytest.mark.parametrize("stage", STAGES)
def test_stage_is_one_call_of_landmarks(stage: str) -> None:
    (line,) = recipe(stage, "CSV=urls.csv").strip().splitlines()[-1:]
    assert line.startswith(f".venv/bin/landmarks {stage}")


@needs_make
def test_variables_reach_the_commands() -> None:
    given = {
        "DATA": "a/photographs",
        "CONFIG": "hog",
        "RUN": "a/run",
        "DEVICE": "cuda",
        "WEIGHTS": "a/weights",
        "CSV": "a/urls.csv",
        "OUT": "an/out.csv",
    }
    settings = [f"{name}={value}" for name, value in given.items()]
    for target, names in {
        "index": ["DATA", "CONFIG", "RUN", "DEVICE", "WEIGHTS"],
        "evaluate": ["DATA", "RUN", "DEVICE", "WEIGHTS"],
        "classify": ["RUN", "DEVICE", "WEIGHTS", "CSV", "OUT"],
        "data": ["DATA"],
        "demo": ["DEVICE"],
    }.items():
        for name in names:
            assert f'"{given[name]}"' in recipe(target, *settings), (target, name)
    assert "--weights" not in recipe("index")
    assert '"data/runs/demo"' in recipe("index")
    assert '"data/runs/hog"' in recipe("index", "CONFIG=hog")
    assert '"data/runs/demo"' in recipe("index", "CONFIG=classical-global")
    for target in ("index", "evaluate", "classify"):
        assert '"data/runs/photographs"' in recipe(target, "DATA=my/photographs/", "CSV=urls.csv")


@needs_make
def test_a_system_is_named_only_where_it_was_asked_for() -> None:
    assert "--config" not in recipe("index", "DATA=photos")
    assert '--config "hog"' in recipe("index", "DATA=photos", "CONFIG=hog")


@needs_make
def test_classify_without_a_csv_says_so() -> None:
    done = make("--assume-old=.venv/installed", "classify")
    assert done.returncode == 2
    assert "make classify needs CSV=urls.csv" in done.stderr


@needs_make
def test_old_python_gets_one_clear_line(tmp_path: Path) -> None:
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / name, tmp_path)
    old = tmp_path / "old-python"
    old.write_text("#!/bin/sh\nexit 1\n")
    old.chmod(0o755)
    done = make("setup", f"PYTHON={old}", folder=tmp_path)
    assert done.returncode == 2
    assert f"needs Python 3.11 or newer, which {old} is not" in done.stderr
    assert not (tmp_path / ".venv").exists()


@needs_make
def test_set_up_follows_what_it_is_made_from(tmp_path: Path) -> None:
    """Made once, made again when a pin changes, and taken up again after an interruption."""
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / name, tmp_path)
        os.utime(tmp_path / name, (1000, 1000))
    python = tmp_path / "stand-in"
    # Makes a "venv" whose python notes what it was asked, and fails once it is told to.
    python.write_text(
        "#!/bin/sh\n"
        '[ "$1" = -c ] && exit 0\n'
        "mkdir -p .venv/bin\n"
        "printf '#!/bin/sh\\necho \"$@\" >> asked\\nexec test ! -e broken\\n' > .venv/bin/python\n"
        "chmod +x .venv/bin/python\n"
    )
    python.chmod(0o755)
    asked = tmp_path / "asked"

    def set_up() -> int:
        asked.unlink(missing_ok=True)
        return make("setup", f"PYTHON={python}", folder=tmp_path).returncode

    (tmp_path / "broken").touch()
    assert set_up() == 2
    (tmp_path / "broken").unlink()
    assert set_up() == 0
    assert "-c constraints.txt" in asked.read_text()
    assert "--editable .[dev]" in asked.read_text()
    assert set_up() == 0
    assert not asked.exists()
    for name in ("pyproject.toml", "constraints.txt"):
        later = (tmp_path / ".venv/installed").stat().st_mtime + 10
        os.utime(tmp_path / name, (later, later))
        assert set_up() == 0
        assert asked.exists()
        os.utime(tmp_path / name, (1000, 1000))


@needs_make
def test_clean_removes_what_make_made_and_nothing_else(tmp_path: Path) -> None:
    shutil.copy(ROOT / "Makefile", tmp_path)
    made = [".venv/installed", "data/demo/a.jpg", "data/runs/demo/run.json", ".mypy_cache/x"]
    made += ["retrieval/__pycache__/a.pyc", "tests/retrieval/__pycache__/b.pyc"]
    kept = ["data/README.md", "data/runs/mine/run.json", "data/mine/a.jpg", "predictions.csv"]
    kept += ["retrieval/a.py", "pipelines/a.py", "tests/a.py", "benchmarks/results/scale.json"]
    for name in made + kept:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    assert make("clean", folder=tmp_path).returncode == 0
    assert [name for name in made if (tmp_path / name).exists()] == []
    assert [name for name in kept if not (tmp_path / name).exists()] == []
    # An environment that make did not finish is somebody's own.
    (tmp_path / ".venv/bin").mkdir(parents=True)
    assert make("clean", folder=tmp_path).returncode == 0
    assert (tmp_path / ".venv/bin").exists()


def test_constraints_pin_everything_that_is_needed() -> None:
    """All that the dependencies bring along here has an exact pin that fits what asks for it."""
    pins = read_pins(ROOT / "constraints.txt")
    extras = PROJECT["project"]["optional-dependencies"]
    todo = [
        (Requirement(text), "landmark-retrieval")
        for text in [*PROJECT["project"]["dependencies"], *chain(*extras.values())]
    ]
    seen = set()
    while todo:
        wanted, wanted_by = todo.pop()
        key = (canonicalize_name(wanted.name), frozenset(wanted.extras))
        if key in seen or (wanted.marker and not wanted.marker.evaluate({"extra": ""})):
            continue
        seen.add(key)
        assert key[0] in pins, f"{key[0]}, which {wanted_by} needs, has no pin"
        assert wanted.specifier.contains(pins[key[0]]), f"{wanted_by} needs {wanted}"
        try:
            needs = metadata.requires(wanted.name) or []
        except metadata.PackageNotFoundError:
            assert key[0] == "ray", "every extra but this large one comes with dev"
            continue
        for text in needs:
            brought = Requirement(text)
            if any(
                brought.marker is None or brought.marker.evaluate({"extra": extra})
                for extra in wanted.extras or {""}
            ):
                brought.marker = None
                todo.append((brought, wanted.name))


def test_torch_and_torchvision_are_pinned_as_a_pair() -> None:
    text = (ROOT / "constraints.txt").read_text()
    assert re.search(r"^torch==\S+\ntorchvision==\S+\n", text, re.MULTILINE)
    pins = read_pins(ROOT / "constraints.txt")
    assert pins["faiss-gpu"] == pins["faiss-cpu"]
    # The tests run on the very pair: its operators were built for this torch.
    assert metadata.version("torch").partition("+")[0] == pins["torch"]
    assert metadata.version("torchvision").partition("+")[0] == pins["torchvision"]


@pytest.mark.parametrize(
    ("system", "machine", "wanted"),
    [
        ("linux", "x86_64", "faiss-gpu"),
        ("linux", "aarch64", "faiss-cpu"),
        ("darwin", "arm64", "faiss-cpu"),
        ("win32", "AMD64", "faiss-cpu"),
    ],
)
def test_one_faiss_for_each_platform(system: str, machine: str, wanted: str) -> None:
    here = {"sys_platform": system, "platform_machine": machine}
    chosen = [
        requirement.name
        for requirement in map(Requirement, PROJECT["project"]["dependencies"])
        if requirement.name.startswith("faiss")
        and (requirement.marker is None or requirement.marker.evaluate(here))
    ]
    assert chosen == [wanted]


def test_package_holds_its_modules_and_data() -> None:
    setuptools = PROJECT["tool"]["setuptools"]
    packages = find_packages(str(ROOT), include=setuptools["packages"]["find"]["include"])
    for top in ("retrieval", "pipelines"):
        for module in (ROOT / top).rglob("*.py"):
            package = ".".join(module.parent.relative_to(ROOT).parts)
            assert package in packages, f"{module.parent} lacks __init__.py"
    for top, patterns in setuptools["package-data"].items():
        data = {pattern: set((ROOT / top).glob(pattern)) for pattern in patterns}
        assert all(data.values()), data
        for file in (ROOT / top).rglob("*"):
            if file.is_file() and file.suffix not in {".py", ".pyc"}:
                assert file in set().union(*data.values()), f"{file} would not be installed"
        assert ROOT / top / "py.typed" in data["py.typed"]


def test_every_import_of_the_package_is_a_dependency() -> None:
    brought = metadata.packages_distributions()
    extras = PROJECT["project"]["optional-dependencies"]
    optional = chain(*(texts for extra, texts in extras.items() if extra != "dev"))
    wanted = {
        canonicalize_name(Requirement(text).name)
        for text in [*PROJECT["project"]["dependencies"], *optional]
    }
    imports = re.compile(r"^\s*(?:import|from) ([a-zA-Z_]\w*)", re.MULTILINE)
    for top in ("retrieval", "pipelines"):
        for module in (ROOT / top).rglob("*.py"):
            for name in set(imports.findall(module.read_text())) & brought.keys():
                if name in {"retrieval", "pipelines"}:
                    continue
                providers = {canonicalize_name(one) for one in brought[name]}
                assert providers & wanted, f"{module.name} imports {name}"


def run_ci(folder: Path, tests_say: str, tests_exit: int = 0, lint_exit: int = 0) -> int:
    (folder / ".ci").mkdir()
    shutil.copy(ROOT / ".ci/run", folder / ".ci/run")
    (folder / "Makefile").write_text(
        f"lint:\n\t@exit {lint_exit}\ntest:\n\t@echo '{tests_say}'; exit {tests_exit}\n"
    )
    return subprocess.run(
        [str(folder / ".ci/run")], cwd="/", capture_output=True, timeout=60, check=False
    ).returncode


@needs_make
@pytest.mark.parametrize(
    ("say", "tests_exit", "lint_exit", "sound"),
    [
        ("== 12 passed, 3 skipped in 4.00s ==", 0, 0, True),
        ("== 1 passed in 4.00s ==", 0, 0, True),
        ("12 passed in 4.00s", 0, 0, True),
        ("== 3 skipped in 4.00s ==", 0, 0, False),
        ("== 0 passed in 4.00s ==", 0, 0, False),
        ("no tests ran in 0.01s", 0, 0, False),
        ("no tests ran in 0.01s", 5, 0, False),
        ("== 1 failed, 12 passed in 4.00s ==", 1, 0, False),
        ("== 12 passed in 4.00s ==", 0, 1, False),
    ],
)
def test_ci_script_fails_unless_tests_passed(
    tmp_path: Path, say: str, tests_exit: int, lint_exit: int, sound: bool
) -> None:
    assert (run_ci(tmp_path, say, tests_exit, lint_exit) == 0) is sound


def test_ci_script_can_be_run() -> None:
    assert (ROOT / ".ci/run").stat().st_mode & stat.S_IXUSR
