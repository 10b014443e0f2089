"""What a command loads: libraries that take long are loaded by those that need them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from pipelines.building.index import build_run
from retrieval.photographs.table import load_data_set
from tests.pipelines.building.test_index import config_of

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
FITTING = ("torchvision", "timm", "kornia", "sklearn", "matplotlib")
HEAVY = (*FITTING, "torch", "faiss", "cv2", "scipy", "pandas", "pyarrow", "PIL")
COMMAND = """
import sys
from pipelines.main import main
try:
    main()
finally:
    print("loaded:", *sys.modules, file=sys.stderr)
"""


def loaded(*arguments: object, code: str = COMMAND) -> list[str]:
    """The modules that a process has loaded in the end, in the order in which they were."""
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        cwd=ROOT, capture_output=True, check=True, text=True,
    )  # fmt: skip
    (line,) = (one for one in done.stderr.splitlines() if one.startswith("loaded: "))
    return line.split()[1:]


@pytest.mark.parametrize("option", ["--help", "--version"])
def test_help_loads_no_library_of_the_work(option: str) -> None:
    assert not set(HEAVY) & set(loaded(option))


def test_the_list_of_systems_is_read_alone() -> None:
    assert not set(HEAVY) & set(loaded("config"))


def test_a_config_is_told_without_what_fits_and_runs_it() -> None:
    assert not set(FITTING) & set(loaded("config", "hog"))


def test_a_classical_system_answers_without_what_fits_it(data: Path, tmp_path: Path) -> None:
    build_run(config_of("hog"), load_data_set(data), tmp_path / "run", "cpu")
    photograph = next((data / "photos").iterdir())
    found = loaded("classify", photograph, "--run", tmp_path / "run", "--device", "cpu")
    assert not set(FITTING) & set(found)
    assert "retrieval.explain.explainer" not in found
    assert found.index("faiss") < found.index("torch")
    tables = {"pandas", "pyarrow"}
    assert not (set(HEAVY) - tables) & set(loaded("list", "--run", tmp_path / "run"))


def test_photographs_are_fetched_without_what_describes_them(tmp_path: Path) -> None:
    (tmp_path / "list.csv").write_text("id,url\n")
    tables = {"pandas", "pyarrow", "PIL"}
    found = loaded("data", "fetch", tmp_path / "list.csv", "--out", tmp_path / "out")
    assert not (set(HEAVY) - tables) & set(found)


@pytest.mark.parametrize(
    "code",
    ["import retrieval, torch", "import pipelines, torchvision", "import faiss, torch"],
)
def test_faiss_comes_before_torch(code: str) -> None:
    found = loaded(code=f"{code}, sys; print('loaded:', *sys.modules, file=sys.stderr)")
    assert found.index("faiss") < found.index("torch")


def test_without_faiss_torch_is_there_all_the_same() -> None:
    code = "import sys; sys.modules['faiss'] = None; import retrieval, torch"
    assert "torch" in loaded(code=f"{code}; print('loaded:', *sys.modules, file=sys.stderr)")
