"""A system built, added to and taken from in Python."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from retrieval.config import SystemConfig
from retrieval.descriptors.cross_fit import PARTS
from retrieval.errors import RunError, TableError
from retrieval.photographs.table import load_data_set
from retrieval.system import System
from tests.milvus import LITE, free_port, lite_server
from tests.photographs import view, write_data_set

CONFIG = SystemConfig.model_validate(
    {
        "name": "small",
        "extractor": {"kind": "hog", "side": 64, "cells": [16]},
        "whitening": {"dimension": 16},
        "classifiers": {"knn": {"kind": "knn", "k": 5}},
    }
)


def test_a_notebook_builds_adds_and_removes(tmp_path: Path) -> None:
    told: list[tuple[str, int]] = []

    @contextlib.contextmanager
    def bar(what: str, total: int) -> Iterator[Callable[[int, int], None]]:
        done: list[int] = []
        yield lambda rows, failed: done.append(rows)
        assert sum(done) == total
        told.append((what, total))

    known = load_data_set(write_data_set(tmp_path / "data"))
    first = known.gallery["landmark"] == "L1"
    few = replace(known, gallery=known.gallery[~first])
    system = System.build(CONFIG, few, tmp_path / "run", "cpu", bar)
    photographs = len(few.gallery) + len(few.bank)
    steps = ["extracting", "describing", "learning whitening", "whitening"]
    counts = [photographs, photographs, 1 + PARTS, photographs]
    assert told == list(zip(steps, counts, strict=True))
    assert "L1" not in system.landmarks
    more = system.add(known.gallery[first], bar)
    assert told[4:] == [("describing", first.sum()), ("whitening", first.sum())]
    assert more.classify(view(1, 9))["candidate"].tolist() == ["L1"]
    ids = known.gallery["id"][first].tolist()
    again = more.remove(ids[0]).remove(ids[1:])
    assert again.landmarks == system.landmarks
    assert again.rows.equals(system.rows)


def test_what_is_none_of_it_is_told_in_a_line(tmp_path: Path) -> None:
    data = load_data_set(write_data_set(tmp_path / "data"))
    for config, given in (("hog", data), (CONFIG, tmp_path / "data")):
        with pytest.raises(TypeError, match=r"^the (config|data) has to be a \w+, not \w+$"):
            System.build(config, given, tmp_path / "run", "cpu")  # type: ignore[arg-type]
    system = System.build(CONFIG, data, tmp_path / "run", "cpu")
    with pytest.raises(TypeError, match=r"^the table has to be a DataFrame, not str$"):
        system.add("more.csv")  # type: ignore[arg-type]
    with pytest.raises(TableError, match="no column row: read_table"):
        system.add(data.gallery.drop(columns="row"))


@pytest.mark.skipif(LITE is None, reason="milvus-lite is not installed")
def test_a_gallery_that_a_server_holds_answers_as_one_of_faiss(tmp_path: Path) -> None:
    known = load_data_set(write_data_set(tmp_path / "data"))
    first = known.gallery["landmark"] == "L1"
    few = replace(known, gallery=known.gallery[~first])
    from pymilvus import MilvusClient

    port, asked = free_port(), view(1, 9)
    server = {"kind": "milvus", "uri": f"http://127.0.0.1:{port}", "timeout": 5.0}
    held = SystemConfig.model_validate({**CONFIG.model_dump(), "index": server})
    here = System.build(CONFIG, few, tmp_path / "here", "cpu")
    with lite_server(tmp_path / "server", port):
        there = System.build(held, few, tmp_path / "there", "cpu")
        assert there.classify(asked).equals(here.classify(asked))
        more, as_here = there.add(known.gallery[first]), here.add(known.gallery[first])
        assert more.classify(asked).equals(as_here.classify(asked))
        again = more.remove(known.gallery["id"][first].tolist())
        assert again.classify(asked).equals(there.classify(asked))
    with pytest.raises(RunError, match="is away or refuses"):
        System.load(tmp_path / "there")
    with lite_server(tmp_path / "another", port):  # which lost all that it held
        with pytest.raises(RunError, match="does not hold the rows"):
            System.load(tmp_path / "there")
        whole = System.build(held, few, tmp_path / "there", "cpu")
        assert whole.classify(asked).equals(there.classify(asked))
        for one in ("gallery", "bank"):
            note = json.loads((tmp_path / f"there/index/milvus/{one}/milvus.json").read_text())
            MilvusClient(uri=server["uri"]).drop_collection(note["collection"])
            with pytest.raises(RunError, match="does not hold the rows"):
                System.load(tmp_path / "there")
            whole = System.build(held, few, tmp_path / "there", "cpu")
            assert whole.classify(asked).equals(there.classify(asked))
