"""Each broken installation, made up as facts, and the line that it gets."""

from __future__ import annotations

import io
import re
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from pipelines import doctor
from pipelines.doctor import GB, Check, Facts, Probe, judge, probe, read_pins, render

FINE = Probe("fine")
SOUND = Facts(
    python=(3, 11, 7),
    installed={
        "torch": "2.15.0",
        "torchvision": "0.29.2",
        "faiss-gpu": "1.15.1",
        "opencv-python": "5.0.0.93",
    },
    providers={"faiss": ["faiss-gpu"], "cv2": ["opencv-python"]},
    wanted_torch="torch>=2.14.0",
    pinned={"torch": "2.15.0", "torchvision": "0.29.2", "faiss-cpu": "1.15.1"},
    probes=dict.fromkeys([*doctor.PROBES, *doctor.LIBRARIES], FINE)
    | {doctor.TORCH_GPU: Probe("fine", "NVIDIA T4"), doctor.FAISS_GPU: Probe("fine", "1 GPU")},
    gpus=["NVIDIA T4"],
    folder="/here",
    disk=50 * GB,
    memory=16 * GB,
    cores=8,
)


def with_probe(name: str, outcome: Any, said: str = "") -> Facts:
    return replace(SOUND, probes={**SOUND.probes, name: Probe(outcome, said)})


def with_installed(**versions: str) -> Facts:
    new = {name.replace("_", "-"): version for name, version in versions.items()}
    return replace(SOUND, installed={**SOUND.installed, **new})


def complaints(facts: Facts) -> list[Check]:
    return [check for check in judge(facts) if check.status != "ok"]


def test_sound_installation_has_no_complaint() -> None:
    assert complaints(SOUND) == []
    assert all(check.detail and not check.remedy for check in judge(SOUND))


BROKEN: Mapping[str, tuple[Facts, str, str, str, str]] = {
    "old python": (
        replace(SOUND, python=(3, 10, 2)),
        *("Python", "fail", "3.10.2 is older than 3.11", "PYTHON="),
    ),
    "no torchvision": (
        replace(SOUND, installed={"torch": "2.15.0"}),
        *("torch and torchvision", "fail", "torchvision is not installed", "make setup"),
    ),
    "torch too old for torchvision": (
        replace(with_installed(torch="2.13.0"), pinned={}),
        *("torch and torchvision", "fail", "torchvision wants torch>=2.14.0", "at once"),
    ),
    "torch other than torchvision's exact one": (
        replace(SOUND, wanted_torch="torch==2.14.1"),
        *("torch and torchvision", "fail", "torchvision wants torch==2.14.1", "at once"),
    ),
    "operators that do not load": (
        with_probe("operators", "failed", "RuntimeError: operator torchvision::nms does not exist"),
        *("torch and torchvision", "fail", "nms does not exist", "--force-reinstall"),
    ),
    "no faiss": (
        replace(SOUND, providers={**SOUND.providers, "faiss": []}),
        *("FAISS", "fail", "not installed", "pip install -c constraints.txt faiss-gpu"),
    ),
    "two faiss": (
        replace(
            with_installed(faiss_cpu="1.15.1"),
            providers={**SOUND.providers, "faiss": ["faiss-gpu", "faiss-cpu"]},
        ),
        *("FAISS", "fail", "faiss-cpu 1.15.1 and faiss-gpu 1.15.1 overwrite", "pip uninstall"),
    ),
    "two opencv": (
        replace(
            with_installed(opencv_python_headless="5.0.0.93"),
            providers={**SOUND.providers, "cv2": ["opencv-python-headless", "opencv-python"]},
        ),
        *("OpenCV", "fail", "and opencv-python-headless 5.0.0.93 overwrite", "pip uninstall"),
    ),
    "opencv without libGL": (
        with_probe(
            "cv2",
            "failed",
            "ImportError: libGL.so.1: cannot open shared object file: No such file or directory",
        ),
        *("cv2", "fail", "libGL.so.1", "apt install libgl1"),
    ),
    "another system library missing": (
        with_probe("faiss", "failed", "libcudart.so.12: cannot open shared object file"),
        *("faiss", "fail", "libcudart.so.12", "holds libcudart.so.12, or make a fresh"),
    ),
    "library that crashes": (
        with_probe("sklearn", "crashed", "SIGSEGV"),
        *("sklearn", "fail", "import crashed: SIGSEGV", "make a fresh environment"),
    ),
    "library that hangs": (
        with_probe("faiss", "hung"),
        *("faiss", "fail", "import hung: no answer in 90 s", "make a fresh environment"),
    ),
    "two OpenMP at odds": (
        with_probe("together", "crashed", "SIGABRT"),
        *("faiss with torch", "fail", "together they crashed: SIGABRT", "OMP_NUM_THREADS"),
    ),
    "gpu that torch does not find": (
        with_probe("torch gpu", "fine"),
        *("GPU for torch", "warn", "lists NVIDIA T4, but this finds none", "--device cpu"),
    ),
    "gpu that FAISS has no kernels for": (
        with_probe("faiss gpu", "crashed", "SIGABRT"),
        *("GPU for FAISS", "warn", "but this crashed: SIGABRT", "sm_70"),
    ),
    "gpu that FAISS hangs on": (
        with_probe("faiss gpu", "hung"),
        *("GPU for FAISS", "warn", "but this hung", "--device cpu"),
    ),
    "faiss-cpu beside a gpu": (
        replace(
            SOUND,
            providers={**SOUND.providers, "faiss": ["faiss-cpu"]},
            installed={**SOUND.installed, "faiss-cpu": "1.15.1"},
        ),
        *("GPU for FAISS", "warn", "faiss-cpu has no GPU code", "pip uninstall faiss-cpu"),
    ),
    "other versions": (
        replace(with_installed(torch="2.16.0"), wanted_torch="torch"),
        *("pinned versions", "warn", "torch 2.16.0 (pinned 2.15.0)", "make setup"),
    ),
    "little disk": (
        replace(SOUND, disk=9 * GB),
        *("disk", "warn", "9.0 GB free at /here", "10 GB"),
    ),
    "no disk": (
        replace(SOUND, disk=GB // 2),
        *("disk", "fail", "0.5 GB free", "free some"),
    ),
    "little memory": (
        replace(SOUND, memory=2 * GB),
        *("machine", "warn", "2.0 GB of memory, 8 cores", "rootsift-vlad"),
    ),
}


@pytest.mark.parametrize("case", BROKEN)
def test_broken_installation_gets_its_line(case: str) -> None:
    facts, name, state, detail, remedy = BROKEN[case]
    (complaint,) = complaints(facts)
    assert (complaint.name, complaint.status) == (name, state)
    assert detail in complaint.detail
    assert remedy in complaint.remedy
    assert "\n" not in complaint.detail + complaint.remedy


def test_label_of_a_build_is_no_mismatch() -> None:
    facts = replace(with_installed(torch="2.15.0+cpu"), wanted_torch="torch==2.15.0", pinned={})
    assert complaints(facts) == []


def test_machine_without_a_gpu_is_sound() -> None:
    probes = {**SOUND.probes, doctor.TORCH_GPU: FINE, doctor.FAISS_GPU: FINE}
    facts = replace(
        SOUND, gpus=[], probes=probes, providers={**SOUND.providers, "faiss": ["faiss-cpu"]}
    )
    assert complaints(facts) == []


def test_drift_is_cut_short() -> None:
    names = [f"one{number}" for number in range(9)]
    facts = replace(
        SOUND,
        installed={**SOUND.installed, **dict.fromkeys(names, "2")},
        pinned=dict.fromkeys(names, "1"),
    )
    (complaint,) = complaints(facts)
    assert complaint.detail.endswith("one2 2 (pinned 1) and 6 more")


def test_every_library_that_fails_has_a_line() -> None:
    probes = dict(SOUND.probes) | dict.fromkeys(("cv2", "pyarrow"), Probe("failed", "no"))
    checks = judge(replace(SOUND, probes=probes))
    assert [check.name for check in checks if check.status == "fail"] == ["cv2", "pyarrow"]
    assert any(check.detail == "14 of 16 load" for check in checks)


def test_extras_may_be_there_or_not() -> None:
    (check,) = (one for one in judge(with_installed(kornia="0.9.0")) if one.name == "extras")
    assert check.status == "ok"
    told = check.detail.split(", ")
    assert told[0] == "kornia 0.9.0"
    assert "no poselib (pip install 'landmark-retrieval[verification]')" in told
    assert len(told) == len(doctor.EXTRAS)


def test_library_that_fails_alone_is_not_blamed_twice() -> None:
    failed = Probe("failed", "ModuleNotFoundError: No module named 'faiss'")
    probes = {**SOUND.probes, "faiss": failed, doctor.TOGETHER: failed}
    assert [check.name for check in complaints(replace(SOUND, probes=probes))] == ["faiss"]


def test_probe_tells_how_a_process_ended() -> None:
    assert probe("print('one'); print('two')") == Probe("fine", "two")
    assert probe("raise ValueError('for this')") == Probe("failed", "ValueError: for this")
    assert probe("import sys; sys.exit(3)") == Probe("failed", "exit code 3")
    assert probe("import os; os.abort()") == Probe("crashed", "SIGABRT")
    assert probe("import time; time.sleep(60)", seconds=0.1) == Probe("hung")


def test_pins_are_read_by_canonical_name(tmp_path: Path) -> None:
    path = tmp_path / "constraints.txt"
    path.write_text("# a pair\ntorch==2.15.0\ntyping_extensions==4.16.0  # why\n\n")
    assert read_pins(path) == {"torch": "2.15.0", "typing-extensions": "4.16.0"}
    assert read_pins(tmp_path / "none.txt") == {}


def test_libraries_are_tried_alone_only_where_a_probe_failed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tried: list[str] = []

    def stand_in(code: str) -> Probe:
        tried.append(code)
        return Probe("crashed", "SIGSEGV") if "cv2" in code else FINE

    monkeypatch.setattr(doctor, "probe", stand_in)
    probes = doctor.run_probes(with_gpu=False)
    assert probes.keys() == SOUND.probes.keys()
    broken = {name for name, ended in probes.items() if ended.outcome != "fine"}
    assert broken == {"cv2", doctor.TOGETHER}
    alone = {code for code in tried if code.startswith("import") and "\n" not in code}
    assert alone == {"import faiss", "import cv2"}
    assert not any("cuda" in code for code in tried)
    tried.clear()
    doctor.run_probes(with_gpu=True)
    assert any("cuda" in code for code in tried)


def test_every_library_is_loaded_by_a_probe() -> None:
    assert {one for some in doctor.LOADED.values() for one in some} == set(doctor.LIBRARIES)
    for key, libraries in doctor.LOADED.items():
        for library in libraries:
            assert re.search(rf"import .*\b{library}\b", doctor.PROBES[key]), (key, library)


@pytest.mark.slow
def test_this_installation_works(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    # Loading FAISS beside torch is what the index's tests try; the rest, this test session.
    for key in (doctor.TOGETHER, doctor.REST):
        monkeypatch.setitem(doctor.PROBES, key, "")
    facts = doctor.gather(tmp_path)
    assert facts.installed["torch"] == metadata.version("torch")
    assert facts.wanted_torch is not None
    assert facts.disk > 0
    assert facts.memory > GB // 2
    assert [
        check for check in judge(facts) if check.status == "fail" and check.name != "disk"
    ] == []


def test_doctor_imports_nothing_that_may_be_broken() -> None:
    code = (
        "import sys, pipelines.doctor as doctor; "
        "print([one for one in doctor.LIBRARIES if one in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_command_ends_badly_when_a_check_fails(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for status, code in (("ok", 0), ("warn", 0), ("fail", 1)):
        monkeypatch.setattr(doctor, "run_checks", lambda s=status: [Check("disk", s, "9 GB")])
        with pytest.raises(SystemExit) as ended:
            doctor.main()
        assert int(ended.value.code or 0) == code
        assert capsys.readouterr().out.split() == [status, "disk", "9", "GB"]


def test_render_shows_every_check() -> None:
    checks = [Check("disk", "ok", "9 GB [free]"), Check("FAISS", "fail", "two", "remove one")]
    out = io.StringIO()
    Console(file=out, width=100).print(render(checks))
    first, second = out.getvalue().splitlines()
    assert first.split() == ["ok", "disk", "9", "GB", "[free]"]
    assert second.split() == ["fail", "FAISS", "two", "->", "remove", "one"]
