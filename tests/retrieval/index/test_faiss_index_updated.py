"""An index whose rows come and go; and what threads must not change."""

from __future__ import annotations

from pathlib import Path

import faiss
import numpy as np
import pytest

from retrieval.errors import ConfigError
from retrieval.index.faiss_factory import IndexConfig, can_shrink
from retrieval.index.faiss_index import FaissIndex
from retrieval.storage.fingerprint import checksum
from tests.retrieval.index.test_faiss_index import unit_rows


@pytest.mark.parametrize("factory", ["IVF16,Flat", "IVF16,SQ8"])
def test_the_number_of_threads_shows_in_no_byte(factory: str) -> None:
    gallery, found, before = unit_rows(3000, 64), [], faiss.omp_get_max_threads()
    for threads in (1, 2, 3):
        faiss.omp_set_num_threads(threads)
        index = FaissIndex.build(gallery, IndexConfig(factory=factory)).index
        found.append(faiss.serialize_index(index).tobytes())
    faiss.omp_set_num_threads(before)
    assert found[0] == found[1] == found[2]


KEPT = ["Flat", "SQ8", "PQ4x4", "IVF8,Flat", "IVF8,SQ8", "OPQ4_8,IVF8,PQ4x4", "IVF8_HNSW8,SQ8"]


@pytest.mark.parametrize("factory", KEPT)
def test_whether_rows_can_go_is_known_by_the_key(factory: str) -> None:
    assert can_shrink(factory)


@pytest.mark.parametrize("factory", KEPT)
@pytest.mark.parametrize("gone", [0, 300, 997])
def test_an_updated_index_is_one_that_was_given_the_same_rows(
    tmp_path: Path, factory: str, gone: int
) -> None:
    gallery, more = unit_rows(1000, 16), unit_rows(50, 16, 1)
    folder = tmp_path / "before"
    FaissIndex.build(gallery, IndexConfig(factory=factory)).save(folder, "before")
    file = (folder / "index.faiss").read_bytes()
    left = np.ones(1000, np.bool_)
    left[np.random.default_rng(2).choice(1000, gone, replace=False)] = False
    updated = FaissIndex.update_into(tmp_path / "now", folder, left, [more[:20], more[20:]])
    fresh = faiss.read_index(str(folder / "index.faiss"))
    fresh.reset()  # which keeps what was trained
    fresh.add(np.concatenate([gallery[left], more]))
    assert faiss.serialize_index(updated.index).tobytes() == faiss.serialize_index(fresh).tobytes()
    assert (folder / "index.faiss").read_bytes() == file
    assert FaissIndex.file_checksums(tmp_path / "now") == {
        "index.faiss": checksum(tmp_path / "now/index.faiss")
    }


@pytest.mark.parametrize("factory", ["HNSW8", "IVF8,PQ4x4fs", "IVF8,PQ4x4,RFlat"])
def test_what_lets_no_row_go_grows_alone(tmp_path: Path, factory: str) -> None:
    gallery, more = unit_rows(1000, 16), unit_rows(50, 16, 1)
    FaissIndex.build(gallery, IndexConfig(factory=factory)).save(tmp_path)
    assert not can_shrink(factory)
    now = FaissIndex.update_into(tmp_path / "now", tmp_path, np.ones(1000, np.bool_), more)
    assert len(now) == 1050
    with pytest.raises(ConfigError, match="no row can be taken out"):
        FaissIndex.update_into(tmp_path / "later", tmp_path, np.arange(1000) > 0, more)
