"""What breaks installs in this field, looked for one by one, each with its remedy.

Facts are gathered first and judged after, by functions of the facts alone. Libraries are loaded in
other processes with a time limit, since what ails them may crash or hang the process; this module
itself imports none of them, so that it answers where nothing else does.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Final, Literal

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version
from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

Status = Literal["ok", "warn", "fail"]

LEAST_PYTHON: Final = (3, 11)
LIBRARIES: Final = (
    "faiss",
    "torch",
    "torchvision",
    "cv2",
    "numpy",
    "pandas",
    "sklearn",
    "skimage",
    "scipy",
    "pyarrow",
    "PIL",
    "matplotlib",
    "aiohttp",
    "safetensors",
    "pydantic",
    "mahotas",
)
# What pyproject.toml's extras bring: not having one is no fault.
EXTRAS: Final = {
    "kornia": "learned",
    "optuna": "training",
    "poselib": "verification",
    "tensorboard": "training",
    "timm": "timm",
}
PROBE_SECONDS: Final = 90.0
GB: Final = 10**9
WANTED_DISK: Final = 10 * GB
LEAST_DISK: Final = GB
WANTED_MEMORY: Final = 4 * GB
CONSTRAINTS: Final = Path(__file__).parents[1] / "constraints.txt"
ANEW: Final = "make a fresh environment: rm -rf .venv && make setup"

OPERATORS: Final = "operators"
TOGETHER: Final = "together"
TORCH_GPU: Final = "torch gpu"
FAISS_GPU: Final = "faiss gpu"
REST: Final = "rest"
# What a probe finds to say goes to its standard output; an exception's last line is kept too.
PROBES: Final = {
    OPERATORS: (
        "import torch, torchvision\n"
        "boxes = torch.tensor([[0.0, 0.0, 1.0, 1.0]])\n"
        "assert torchvision.ops.nms(boxes, torch.tensor([1.0]), 0.5).tolist() == [0]\n"
    ),
    TOGETHER: (
        "import faiss, torch, cv2, numpy\n"
        "rows = numpy.ones((2000, 64), dtype='float32')\n"
        "index = faiss.IndexFlatIP(64)\n"
        "index.add(rows)\n"
        "assert index.search(rows, 1)[0][0, 0] == 64\n"
        "assert (torch.from_numpy(rows) @ torch.from_numpy(rows).T)[0, 0] == 64\n"
    ),
    REST: "".join(f"import {name}\n" for name in LIBRARIES[4:]),
    TORCH_GPU: (
        "import torch\n"
        "if torch.cuda.is_available():\n"
        "    ones = torch.ones(64, 64, device='cuda')\n"
        "    assert (ones @ ones)[0, 0].item() == 64\n"
        "    print(torch.cuda.get_device_name(0))\n"
    ),
    FAISS_GPU: (
        "import faiss, numpy\n"
        "if getattr(faiss, 'get_num_gpus', lambda: 0)() and hasattr(faiss, 'GpuIndexFlatIP'):\n"
        "    index = faiss.GpuIndexFlatIP(faiss.StandardGpuResources(), 8)\n"
        "    index.add(numpy.eye(8, dtype='float32'))\n"
        "    assert index.search(numpy.eye(8, dtype='float32'), 1)[1].ravel().tolist() == "
        "list(range(8))\n"
        "    print(faiss.get_num_gpus(), 'GPU')\n"
    ),
}

# The libraries that a probe has loaded when it went well: those need no process of their own.
LOADED: Final = {
    OPERATORS: LIBRARIES[1:3],
    TOGETHER: ("faiss", "torch", "cv2", "numpy"),
    REST: LIBRARIES[4:],
}


@dataclass(frozen=True)
class Check:
    """One line of the report; ``remedy`` is empty where nothing is wrong."""

    name: str
    status: Status
    detail: str
    remedy: str = ""


@dataclass(frozen=True)
class Probe:
    """How a process that tried something ended, and what it said last."""

    outcome: Literal["fine", "failed", "crashed", "hung"]
    said: str = ""


@dataclass(frozen=True)
class Facts:
    """What the checks judge.

    Attributes:
        python: the version.
        installed: versions of the installed distributions by canonical name.
        providers: the distributions that bring a module, for ``faiss`` and ``cv2``.
        wanted_torch: the torch that torchvision's metadata asks for, as a requirement.
        pinned: versions in constraints.txt, by canonical name; empty without the file.
        probes: how each of :data:`PROBES`, and each library's import, ended.
        gpus: the GPUs that the driver lists.
        folder: the working folder.
        disk: bytes free there.
        memory: bytes in all.
        cores: processors that this process may use.
    """

    python: tuple[int, int, int]
    installed: Mapping[str, str]
    providers: Mapping[str, Sequence[str]]
    wanted_torch: str | None
    pinned: Mapping[str, str]
    probes: Mapping[str, Probe]
    gpus: Sequence[str]
    folder: str
    disk: int
    memory: int
    cores: int


def run_checks(folder: Path | None = None) -> list[Check]:
    """Gather the facts of this installation and judge them; takes some ten seconds."""
    return judge(gather(folder or Path.cwd()))


def judge(facts: Facts) -> list[Check]:
    """Every check, in the order in which to mend what is broken."""
    return [
        check_python(facts),
        check_pair(facts),
        check_faiss(facts),
        check_opencv(facts),
        *check_libraries(facts),
        check_extras(facts),
        *check_together(facts),
        check_torch_gpu(facts),
        check_faiss_gpu(facts),
        check_pins(facts),
        check_disk(facts),
        check_machine(facts),
    ]


def render(checks: Sequence[Check]) -> RenderableType:
    """The checks as a table: a mark, the name, what was found and what to do about it."""
    styles = {"ok": "green", "warn": "yellow", "fail": "bold red"}
    table = Table.grid(padding=(0, 2))
    for check in checks:
        told = Text(check.detail)
        if check.remedy:
            told.append(f" -> {check.remedy}", style="bold")
        table.add_row(Text(check.status, style=styles[check.status]), Text(check.name), told)
    return table


def check_python(facts: Facts) -> Check:
    version = ".".join(map(str, facts.python))
    if facts.python < LEAST_PYTHON:
        least = ".".join(map(str, LEAST_PYTHON))
        remedy = f"rm -rf .venv && make setup PYTHON=python{least}"
        return Check("Python", "fail", f"{version} is older than {least}", remedy)
    return Check("Python", "ok", version)


def check_pair(facts: Facts) -> Check:
    """Whether torchvision's metadata and its compiled operators fit the installed torch."""
    name = "torch and torchvision"
    pair = [facts.installed.get(one) for one in ("torch", "torchvision")]
    if None in pair:
        missing = "torch" if pair[0] is None else "torchvision"
        return Check(name, "fail", f"{missing} is not installed", ANEW)
    detail = f"{pair[0]} and {pair[1]}"
    wanted = Requirement(facts.wanted_torch or "torch")
    # A build's own label, as in 2.15.0+cpu, is no part of what torchvision asks for.
    if not wanted.specifier.contains(Version(str(pair[0])).public, prereleases=True):
        remedy = "install both at once: pip install -c constraints.txt torch torchvision"
        return Check(name, "fail", f"{detail} do not fit: torchvision wants {wanted}", remedy)
    probe = facts.probes[OPERATORS]
    if probe.outcome != "fine":
        remedy = (
            "install both from one index: "
            "pip install --force-reinstall -c constraints.txt torch torchvision"
        )
        return Check(name, "fail", f"{detail}: torchvision's operators {_fate(probe)}", remedy)
    return Check(name, "ok", detail)


def check_faiss(facts: Facts) -> Check:
    return _check_single(facts, "FAISS", "faiss", "faiss-gpu (faiss-cpu off Linux x86-64)")


def check_opencv(facts: Facts) -> Check:
    return _check_single(facts, "OpenCV", "cv2", "opencv-python")


def _check_single(facts: Facts, name: str, module: str, wanted: str) -> Check:
    """Exactly one distribution brings the module; two overwrite each other's files."""
    found = sorted(set(facts.providers.get(module, ())))
    told = " and ".join(f"{one} {facts.installed.get(canonicalize_name(one), '')}" for one in found)
    if not found:
        return Check(name, "fail", "not installed", f"pip install -c constraints.txt {wanted}")
    if len(found) > 1:
        remedy = f"pip uninstall {' '.join(found)}, then install one alone ({wanted})"
        return Check(name, "fail", f"{told} overwrite each other", remedy)
    return Check(name, "ok", told.strip())


def check_libraries(facts: Facts) -> list[Check]:
    """One line for all that load, and one for each that does not."""
    broken = [name for name in LIBRARIES if facts.probes[name].outcome != "fine"]
    lines = [
        Check(name, "fail", f"import {_fate(probe)}", _import_remedy(probe))
        for name in broken
        for probe in [facts.probes[name]]
    ]
    loaded = len(LIBRARIES) - len(broken)
    if loaded:
        lines.append(Check("libraries", "ok", f"{loaded} of {len(LIBRARIES)} load"))
    return lines


def check_extras(facts: Facts) -> Check:
    """Which of the extras' libraries are there; configs that want another say so themselves."""
    told = [
        f"{one} {facts.installed[one]}"
        if one in facts.installed
        else f"no {one} (pip install 'landmark-retrieval[{extra}]')"
        for one, extra in EXTRAS.items()
    ]
    return Check("extras", "ok", ", ".join(told))


def check_together(facts: Facts) -> list[Check]:
    """FAISS, then torch, then OpenCV in one process: each may bring its own OpenMP.

    Not judged while one of them does not even load alone, which has a line of its own.
    """
    if any(facts.probes[one].outcome != "fine" for one in ("faiss", "torch", "cv2")):
        return []
    probe = facts.probes[TOGETHER]
    name = "faiss with torch"
    if probe.outcome == "fine":
        return [Check(name, "ok", "both work in one process, faiss imported first")]
    remedy = f"two OpenMP runtimes may be at odds: {ANEW}; on macOS set OMP_NUM_THREADS=1"
    return [Check(name, "fail", f"together they {_fate(probe)}", remedy)]


def check_torch_gpu(facts: Facts) -> Check:
    remedy = "update the NVIDIA driver to one that serves torch's CUDA (nvidia-smi shows both)"
    return _check_gpu(facts, "GPU for torch", TORCH_GPU, remedy)


def check_faiss_gpu(facts: Facts) -> Check:
    if facts.gpus and list(facts.providers.get("faiss", ())) == ["faiss-cpu"]:
        remedy = "on Linux x86-64: pip uninstall faiss-cpu, then pip install faiss-gpu"
        return Check("GPU for FAISS", "warn", "faiss-cpu has no GPU code", remedy)
    remedy = "faiss-gpu needs a driver for CUDA 12.6 or newer and a GPU of 2017 (sm_70) or newer"
    return _check_gpu(facts, "GPU for FAISS", FAISS_GPU, remedy)


def _check_gpu(facts: Facts, name: str, key: str, remedy: str) -> Check:
    probe = facts.probes[key]
    if probe.outcome == "fine" and probe.said:
        return Check(name, "ok", probe.said)
    if not facts.gpus:
        return Check(name, "ok", "no NVIDIA GPU here: the processor does the work")
    fate = "finds none" if probe.outcome == "fine" else _fate(probe)
    told = f"the driver lists {facts.gpus[0]}, but this {fate}"
    return Check(name, "warn", told, f"{remedy}, or use --device cpu")


def check_disk(facts: Facts) -> Check:
    detail = f"{facts.disk / GB:.1f} GB free at {facts.folder}"
    if facts.disk >= WANTED_DISK:
        return Check("disk", "ok", detail)
    remedy = f"free some, or work elsewhere: set-up and runs want {WANTED_DISK // GB} GB"
    return Check("disk", "fail" if facts.disk < LEAST_DISK else "warn", detail, remedy)


def check_machine(facts: Facts) -> Check:
    detail = f"{facts.memory / GB:.1f} GB of memory, {facts.cores} cores"
    if facts.memory >= WANTED_MEMORY:
        return Check("machine", "ok", detail)
    remedy = f"networks want {WANTED_MEMORY // GB} GB: close programs, or take rootsift-vlad"
    return Check("machine", "warn", detail, remedy)


def check_pins(facts: Facts) -> Check:
    """Whether what is installed is what was tested."""
    name = "pinned versions"
    if not facts.pinned:
        return Check(name, "ok", "no constraints.txt beside the package: nothing to compare")
    drifted = [
        f"{one} {facts.installed[one]} (pinned {version})"
        for one, version in sorted(facts.pinned.items())
        if one in facts.installed and facts.installed[one] != version
    ]
    if not drifted:
        both = len(facts.pinned.keys() & facts.installed.keys())
        return Check(name, "ok", f"all {both} as in constraints.txt")
    more = f" and {len(drifted) - 3} more" if len(drifted) > 3 else ""
    remedy = "touch constraints.txt && make setup"
    return Check(name, "warn", f"other than tested: {', '.join(drifted[:3])}{more}", remedy)


def _fate(probe: Probe) -> str:
    return {
        "fine": "works",
        "failed": f"failed: {probe.said}",
        "crashed": f"crashed: {probe.said}",
        "hung": f"hung: no answer in {PROBE_SECONDS:.0f} s",
    }[probe.outcome]


def _import_remedy(probe: Probe) -> str:
    library = re.search(r"(lib[\w+.-]*\.so[\w.]*)", probe.said)
    if library and "cannot open shared object" in probe.said:
        if library[1].startswith(("libGL", "libglib", "libgthread")):
            return "on Debian and Ubuntu: apt install libgl1 libglib2.0-0"
        return f"install the system's package that holds {library[1]}, or {ANEW}"
    return ANEW


def gather(folder: Path, constraints: Path = CONSTRAINTS) -> Facts:
    """The facts of this machine and of the environment that runs this."""
    gpus = _listed_gpus()
    brought = metadata.packages_distributions()
    return Facts(
        python=sys.version_info[:3],
        installed={
            canonicalize_name(one.name): one.version for one in metadata.distributions() if one.name
        },
        providers={module: brought.get(module, []) for module in ("faiss", "cv2")},
        wanted_torch=_wanted_torch(),
        pinned=read_pins(constraints),
        probes=run_probes(bool(gpus)),
        gpus=gpus,
        folder=str(folder),
        disk=shutil.disk_usage(folder).free,
        memory=memory_bytes(),
        cores=_cores(),
    )


def run_probes(with_gpu: bool) -> dict[str, Probe]:
    """Try everything, several at a time, and then one by one the libraries that may have failed."""

    def run(codes: Mapping[str, str]) -> dict[str, Probe]:
        with ThreadPoolExecutor(max_workers=max(2, _cores())) as pool:
            return dict(zip(codes, pool.map(probe, codes.values()), strict=True))

    fine = Probe("fine")
    skipped = () if with_gpu else (TORCH_GPU, FAISS_GPU)
    ended = run({key: code for key, code in PROBES.items() if key not in skipped})
    loaded = {one for key, some in LOADED.items() if ended[key] == fine for one in some}
    alone = run({one: f"import {one}" for one in LIBRARIES if one not in loaded})
    return dict.fromkeys([*skipped, *loaded], fine) | ended | alone


def probe(code: str, seconds: float = PROBE_SECONDS) -> Probe:
    """Run Python code in a process of its own and tell how it ended."""
    try:
        done = subprocess.run(
            [sys.executable, "-c", code],
            capture_output=True,
            text=True,
            errors="replace",
            timeout=seconds,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return Probe("hung")
    if done.returncode < 0:
        return Probe("crashed", signal.Signals(-done.returncode).name)
    if done.returncode:
        return Probe("failed", _last_line(done.stderr) or f"exit code {done.returncode}")
    return Probe("fine", _last_line(done.stdout))


def read_pins(path: Path) -> dict[str, str]:
    """The ``name==version`` lines of a constraints file, by canonical name."""
    pins: dict[str, str] = {}
    for line in path.read_text().splitlines() if path.is_file() else []:
        name, equals, version = line.partition("#")[0].strip().partition("==")
        if equals:
            pins[str(canonicalize_name(name))] = version
    return pins


def _wanted_torch() -> str | None:
    with contextlib.suppress(metadata.PackageNotFoundError, InvalidRequirement):
        for text in metadata.requires("torchvision") or []:
            wanted = Requirement(text)
            if canonicalize_name(wanted.name) == "torch":
                return f"torch{wanted.specifier}"
    return None


def _listed_gpus() -> list[str]:
    """The GPUs that the driver tells of; a device file speaks for one where nobody can be asked."""
    command = shutil.which("nvidia-smi")
    if command is not None:
        asked = [command, "--query-gpu=name", "--format=csv,noheader"]
        with contextlib.suppress(OSError, subprocess.TimeoutExpired):
            done = subprocess.run(asked, capture_output=True, text=True, timeout=20, check=False)
            if done.returncode == 0:
                return done.stdout.splitlines()
    return ["an NVIDIA GPU"] if Path("/dev/nvidia0").exists() else []


def memory_bytes() -> int:
    """Bytes of memory: the machine's, or what a container is held to."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    with contextlib.suppress(OSError, ValueError):
        return min(total, int(Path("/sys/fs/cgroup/memory.max").read_text()))
    return total


def _cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _last_line(text: str) -> str:
    return text.strip().rpartition("\n")[2].strip()


def main() -> None:
    """Show the checks; exit code 1 where one failed. Also ``python -m pipelines.doctor``."""
    checks = run_checks()
    Console().print(render(checks))
    sys.exit(any(check.status == "fail" for check in checks))


if __name__ == "__main__":
    main()
