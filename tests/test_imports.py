"""The house's rooms: who may import whom, and what nobody does."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PATHS = sorted(path for room in ("retrieval", "pipelines") for path in (ROOT / room).rglob("*.py"))

# In the order in which a photograph flows: a room knows what stands above it, and nothing below.
ROOMS = {
    "retrieval": (
        "errors types streams passes frontend devices threads ray_pool storage photographs vectors"
        " networks local aggregation descriptors index classifiers explain evaluation training"
        " predictions config run additions describing parts agreement indexing recipes changes"
        " build ray_workers system ray_systems"
    ).split(),
    "pipelines": (
        "config progress doctor loopback lists data answering building report measuring studies"
        " terminal layers demo cli main"
    ).split(),
}


def name_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@cache
def nodes(path: Path) -> list[ast.AST]:
    """All that a file's code is made of."""
    return list(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))


def imports(path: Path) -> Iterator[str]:
    """Every module or name that a module imports, wherever it does so."""
    for node in nodes(path):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def top(name: str) -> str:
    return name.partition(".")[0]


def calls(path: Path) -> Iterator[tuple[str, dict[str, ast.expr]]]:
    """Every call's dotted name and its named arguments."""
    for node in nodes(path):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func), {one.arg: one.value for one in node.keywords if one.arg}


def modules(room: str = "") -> dict[str, Path]:
    """Modules by dotted name, of both packages or of one."""
    return {name_of(path): path for path in PATHS if name_of(path).startswith(room)}


def calling(names: Iterable[str], but: Iterable[str] = ()) -> list[str]:
    """The modules that call a function whose dotted name ends so."""
    return [
        f"{own} calls {name}"
        for own, path in modules().items()
        for name, _ in calls(path)
        if own not in but and any(f".{name}".endswith(f".{one}") for one in names)
    ]


def importing(names: Iterable[str], room: str = "", but: Iterable[str] = ()) -> list[str]:
    """The modules that import any of some packages."""
    return [
        f"{own} imports {name}"
        for own, path in modules(room).items()
        for name in imports(path)
        if own not in but and any(f"{name}.".startswith(f"{one}.") for one in names)
    ]


def test_the_library_knows_nothing_of_the_pipelines() -> None:
    assert not importing(("pipelines", "tests", "benchmarks", "typer", "rich"), "retrieval")


@pytest.mark.parametrize("package", ROOMS)
def test_arrows_run_one_way(package: str) -> None:
    rooms = ROOMS[package]

    def rank(name: str) -> int:
        top, _, rest = name.partition(".")
        room = rest.partition(".")[0]
        return rooms.index(room) if top == package and room in rooms else -1

    found = {name.split(".")[1] for name in modules(f"{package}.")}
    assert found == set(rooms)
    assert not [
        f"{own} imports {name}"
        for own, path in modules(f"{package}.").items()
        for name in imports(path)
        if rank(name) > rank(own)
    ]


def test_no_file_imports_itself_by_way_of_others() -> None:
    known = modules()
    arrows = {
        own: {n if n in known else n.rpartition(".")[0] for n in imports(path)} & known.keys()
        for own, path in known.items()
    }
    TopologicalSorter(arrows).prepare()  # which raises on a loop, and names it


def test_few_modules_speak_with_faiss() -> None:
    # The package itself imports it when torch is about to be.
    own = ("exact", "factory", "files", "index", "rows", "shards")
    searching = ("retrieval.index.near_codes", *(f"retrieval.index.faiss_{one}" for one in own))
    learning = ("retrieval.vectors.clustering", "retrieval.vectors.gpu")
    assert not importing(["faiss"], but=("retrieval", *searching, *learning))


def test_one_module_decodes() -> None:
    decoding = ["retrieval.photographs.decoding"]
    readers = ("Image.open", "imread", "imdecode", "decode_image", "decode_jpeg", "read_image")
    assert not calling(readers, but=decoding)
    assert not importing(["PIL"], "retrieval", but=[*decoding, "retrieval.photographs.refusals"])


def test_few_modules_speak_http() -> None:
    clients = ("aiohttp", "requests", "httpx", "socket", "http", "urllib.request")
    servers = ("pipelines.loopback", "pipelines.doctor", "retrieval.ray_pool")
    parts = ("connections", "http_answer", "http_client", "http_request")
    fetching = [f"retrieval.photographs.{part}" for part in parts]
    assert not importing(clients, but=(*fetching, *servers))


def test_nothing_is_pickled() -> None:
    # One reader of a published pickle, which calls nothing that the file names but arrays.
    pickles = ("pickle", "cPickle", "dill", "cloudpickle", "shelve")
    assert not importing(pickles)
    assert not calling(("torch.save", "joblib.load", "joblib.dump", "read_pickle", "to_pickle"))
    loads = [
        (own, named.get("allow_pickle"))
        for own, path in modules().items()
        for name, named in calls(path)
        if name in ("np.load", "numpy.load")
    ]
    assert loads
    for own, allowed in loads:
        assert isinstance(allowed, ast.Constant), own
        assert allowed.value is False, own


def test_one_module_reads_parameters_that_pytorch_saved_and_runs_none_of_their_code() -> None:
    loads = [
        (own, named.get("weights_only"))
        for own, path in modules().items()
        for name, named in calls(path)
        if f".{name}".endswith((".torch.load", ".serialization.load"))
    ]
    assert [own for own, _ in loads] == ["retrieval.local.learned"]
    assert not importing(["torch.load", "torch.serialization"])
    for _, allowed in loads:
        assert isinstance(allowed, ast.Constant)
        assert allowed.value is True


def test_nothing_goes_through_a_shell() -> None:
    assert not calling(("os.system", "os.popen", "subprocess.getoutput", "yaml.load"))
    for own, path in modules().items():
        for name, named in calls(path):
            assert name not in ("eval", "exec"), own
            assert "shell" not in named, own


def test_the_library_prints_nothing() -> None:
    assert not [own for own in calling(["print"]) if own.startswith("retrieval")]


def test_no_two_classes_have_one_name() -> None:
    homes: dict[str, list[str]] = {}
    for own, path in modules().items():
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.ClassDef):
                homes.setdefault(node.name, []).append(own)
    assert not {name: those for name, those in homes.items() if len(those) > 1}
