"""Shards on disk: whole or not there, and never of two makings."""

from __future__ import annotations

import hashlib
import json
import logging
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from retrieval.errors import RunError
from retrieval.storage.files import (
    atomic_write,
    read_arrays,
    read_json,
    write_arrays,
    write_json,
    write_sealed,
)
from retrieval.storage.fingerprint import checksum, fingerprint, first_difference
from retrieval.storage.shards import Shard, ShardStore

MADE_FROM = {"code": 1, "extractor": {"kind": "hog", "side": 160}, "table": "abc"}
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 3) | st.text(max_size=2),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=2), inner),
    max_leaves=8,
)


def shard(first: int, rows: int = 4, failed: int = 1) -> Shard:
    good = rows - failed
    values = np.arange(first, first + good * 2, dtype=np.float32).reshape(good, 2)
    return Shard(
        {"descriptors": values},
        ["ok"] * good + ["decode_failed"] * failed,
        [""] * good + ["not a photograph – “page”"] * failed,
    )


def store_of(folder: Path, shards: int = 2, **changes: Any) -> ShardStore:
    store = ShardStore(folder, {**MADE_FROM, **changes})
    for number in range(shards):
        store.write(number, shard(10 * number))
    return store


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def test_a_file_is_written_whole_with_its_folder(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "down" / "file"
    atomic_write(path, b"bytes")
    assert path.read_bytes() == b"bytes"

    def write(file: BinaryIO) -> None:
        file.write(b"others")

    atomic_write(path, write)
    assert contents(path.parent) == {"file": b"others"}
    assert path.stat().st_mode & 0o777 == 0o644


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_a_writer_that_fails_leaves_what_was_there(
    tmp_path: Path, error: type[BaseException]
) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"before")

    def write(file: BinaryIO) -> None:
        file.write(b"half")
        raise error

    with pytest.raises(error):
        atomic_write(path, write)
    assert contents(tmp_path) == {"file": b"before"}


def test_json_has_one_form(tmp_path: Path) -> None:
    write_json(tmp_path / "a", {"b": 1, "a": "ü"})
    assert (tmp_path / "a").read_text() == '{\n  "a": "ü",\n  "b": 1\n}\n'
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "a", {"a": float("nan")})
    assert read_json(tmp_path / "a") == {"a": "ü", "b": 1}


def test_json_that_is_not_there_or_damaged_names_the_file(tmp_path: Path) -> None:
    with pytest.raises(
        RunError, match=r"run\.json is missing or damaged \(No such file.*run landmarks index again"
    ):
        read_json(tmp_path / "run.json")
    (tmp_path / "run.json").write_text('{"finished": tr')
    with pytest.raises(
        RunError, match=r"run\.json is missing or damaged .*: run landmarks index again"
    ):
        read_json(tmp_path / "run.json")


def test_fingerprints_hang_on_content_alone(tmp_path: Path) -> None:
    assert fingerprint({"a": 1, "b": [2]}) == fingerprint({"b": [2], "a": 1})
    assert fingerprint({"a": 1}) != fingerprint({"a": 2})
    assert fingerprint("ab", "c") != fingerprint("a", "bc")
    assert len(fingerprint()) == 16
    (tmp_path / "a").write_bytes(b"x" * 100_000)
    assert checksum(tmp_path / "a") == hashlib.sha256(b"x" * 100_000).hexdigest()


def test_arrays_come_block_by_block_and_are_mapped(tmp_path: Path) -> None:
    whole = np.arange(40_000, dtype=np.float32).reshape(10_000, 4)
    codes = np.arange(10_000, dtype=np.int8)[:, None]
    forms = {"rows": (whole.dtype, whole.shape), "a.codes": (codes.dtype, codes.shape)}
    blocks = [
        {"rows": whole[start : start + 3000], "a.codes": codes[start : start + 3000]}
        for start in range(0, 10_000, 3000)
    ]
    write_arrays(tmp_path / "new", forms, blocks)
    found = read_arrays(tmp_path / "new")
    assert set(found) == {"rows", "a.codes"}
    assert isinstance(found["rows"], np.memmap)
    np.testing.assert_array_equal(found["rows"], whole)
    np.testing.assert_array_equal(found["a.codes"], codes)
    np.testing.assert_array_equal(np.load(tmp_path / "new" / "rows.npy"), whole)
    assert {path.name for path in (tmp_path / "new").iterdir()} == {"rows.npy", "a.codes.npy"}


def test_arrays_may_have_no_rows(tmp_path: Path) -> None:
    """An empty file cannot be mapped."""
    write_arrays(tmp_path, {"rows": (np.dtype(np.float32), (0, 4))}, [])
    assert read_arrays(tmp_path)["rows"].shape == (0, 4)


def test_arrays_cut_short_leave_the_old_ones(tmp_path: Path) -> None:
    old = np.ones((2, 2), np.float32)
    form = {"rows": (old.dtype, old.shape)}
    write_arrays(tmp_path, form, [{"rows": old}])

    def broken() -> Any:
        yield {"rows": old[:1] + 1}
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_arrays(tmp_path, form, broken())
    np.testing.assert_array_equal(read_arrays(tmp_path)["rows"], old)


@pytest.mark.parametrize("damage", ["cut", "pickled", "foreign", "empty"])
def test_damaged_arrays_are_named(tmp_path: Path, damage: str) -> None:
    rows = np.ones((30_000, 2), np.float32)
    write_arrays(tmp_path, {"rows": (rows.dtype, rows.shape)}, [{"rows": rows}])
    path = tmp_path / "rows.npy"
    if damage == "pickled":
        np.save(path, np.array([{}], dtype=object), allow_pickle=True)
    else:
        left = {"cut": path.read_bytes()[:100_000], "foreign": b"x" * 100_000, "empty": b""}
        path.write_bytes(left[damage])
    with pytest.raises(
        RunError, match=r"rows\.npy is missing or damaged .*: run landmarks index again"
    ):
        read_arrays(tmp_path)


def test_no_arrays(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "none"):
        with pytest.raises(RunError, match="is missing or empty: run landmarks index again"):
            read_arrays(folder)


def test_what_is_written_is_read(tmp_path: Path) -> None:
    store = store_of(tmp_path)
    assert len(store) == 2
    assert 1 in store
    assert 2 not in store
    assert store.counts(1) == (4, 1)
    assert store.failed == 2
    again = ShardStore.open(tmp_path)
    for number, read in enumerate(again.shards()):
        written = shard(10 * number)
        np.testing.assert_array_equal(read.arrays["descriptors"], written.arrays["descriptors"])
        assert (read.statuses, read.reasons) == (written.statuses, written.reasons)
    statuses, reasons = again.verdicts()
    assert statuses == [*shard(0).statuses, *shard(1).statuses]
    assert reasons == [*shard(0).reasons, *shard(1).reasons]


def test_a_shard_may_hold_no_good_row(tmp_path: Path) -> None:
    store = ShardStore(tmp_path, MADE_FROM)
    store.write(0, Shard({}, ["decode_failed"], ["empty file"]))
    assert store.read(0) == Shard({}, ["decode_failed"], ["empty file"])
    assert store.counts(0) == (1, 1)


def test_the_manifest_says_what_there_is(tmp_path: Path) -> None:
    store_of(tmp_path)
    first, *lines = map(json.loads, (tmp_path / "manifest.jsonl").read_text().splitlines())
    assert first["made_from"] == MADE_FROM
    assert [one["name"] for one in lines] == ["shard-00000.safetensors", "shard-00001.safetensors"]
    assert lines[1]["shard"] == {
        "rows": 4,
        "failed": 1,
        "sha256": checksum(tmp_path / "shard-00001.safetensors"),
    }


def test_the_manifest_grows_by_a_line_a_shard(tmp_path: Path) -> None:
    store = ShardStore(tmp_path, MADE_FROM)
    path = tmp_path / "manifest.jsonl"
    for number in range(3):
        before, inode = path.read_bytes(), path.stat().st_ino
        store.write(number, shard(number))
        assert path.read_bytes().startswith(before)
        assert path.stat().st_ino == inode  # added to, and not written anew
    assert path.read_bytes().count(b"\n") == 4


@pytest.mark.parametrize("cut", [1, 40])
def test_a_line_that_was_cut_short_costs_its_shard(tmp_path: Path, cut: int) -> None:
    store_of(tmp_path / "whole", shards=3)
    store_of(tmp_path / "cut", shards=3)
    path = tmp_path / "cut/manifest.jsonl"
    path.write_bytes(path.read_bytes()[:-cut])
    store = ShardStore(tmp_path / "cut", MADE_FROM)
    assert [number in store for number in range(3)] == [True, True, False]
    store.write(2, shard(20))
    assert contents(tmp_path / "cut") == contents(tmp_path / "whole")


def test_a_damaged_line_costs_its_shard_and_stands_in_order_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store_of(tmp_path / "whole", shards=3)
    store_of(tmp_path / "hit", shards=3)
    path = tmp_path / "hit/manifest.jsonl"
    lines = path.read_bytes().split(b"\n")
    lines[2] = lines[2].replace(b'"rows": 4', b'"rows": 5')
    path.write_bytes(b"\n".join(lines))
    store = ShardStore(tmp_path / "hit", MADE_FROM)
    assert f"{path}: line 3 is damaged: its shard is made anew" in caplog.messages
    assert [number in store for number in range(3)] == [True, False, True]
    store.write(1, shard(10))
    assert contents(tmp_path / "hit") == contents(tmp_path / "whole")


def test_a_manifest_of_an_earlier_version_is_read_and_gone_by(tmp_path: Path) -> None:
    whole = store_of(tmp_path / "whole", shards=2)
    store_of(tmp_path / "old", shards=2)
    _, *lines = map(json.loads, (tmp_path / "old/manifest.jsonl").read_text().splitlines())
    (tmp_path / "old/manifest.jsonl").unlink()
    shards = {one["name"]: one["shard"] for one in lines}
    write_sealed(tmp_path / "old/manifest.json", {"made_from": MADE_FROM, "shards": shards})
    before = contents(tmp_path / "old")
    store = ShardStore(tmp_path / "old", MADE_FROM)
    assert (len(store), store.digest) == (2, whole.digest)
    assert contents(tmp_path / "old") == before  # what is only read stays as it is
    store.write(2, shard(20))
    whole.write(2, shard(20))
    assert contents(tmp_path / "old") == contents(tmp_path / "whole")


def test_shards_of_parts_make_the_whole(tmp_path: Path) -> None:
    whole = store_of(tmp_path / "whole", shards=5)
    parts = [ShardStore(tmp_path / str(part), MADE_FROM) for part in range(2)]
    for number in range(5):
        parts[number % 2].write(number, shard(10 * number))
    store = ShardStore(tmp_path / "joined", MADE_FROM)
    store.adopt(parts)
    assert store.digest == whole.digest
    assert contents(tmp_path / "joined") == contents(tmp_path / "whole")
    # Cut short, it is done once more.
    (tmp_path / "joined/shard-00003.safetensors").unlink()
    ShardStore(tmp_path / "joined", MADE_FROM).adopt(parts)
    assert contents(tmp_path / "joined") == contents(tmp_path / "whole")


def test_the_same_makings_keep_the_shards_and_say_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    store_of(tmp_path)
    before = contents(tmp_path)
    # A tuple is a list once it is JSON, and the order of keys means nothing.
    made_from = dict(reversed(MADE_FROM.items()))
    assert len(ShardStore(tmp_path, made_from)) == 2
    assert contents(tmp_path) == before
    assert not caplog.records


def test_other_makings_empty_the_store_and_name_the_field(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    digest = store_of(tmp_path).digest
    store = ShardStore(tmp_path, {**MADE_FROM, "extractor": {"kind": "hog", "side": 96}})
    assert len(store) == 0
    assert list(contents(tmp_path)) == ["manifest.jsonl"]
    assert [record.getMessage() for record in caplog.records] == [
        f"{tmp_path}: extractor.side changed, so it is made anew"
    ]
    assert store.digest != digest


def test_shards_without_a_manifest_are_litter(tmp_path: Path) -> None:
    """A store that was being emptied when it was killed."""
    store_of(tmp_path, shards=3)
    (tmp_path / "manifest.jsonl").unlink()
    store = store_of(tmp_path, shards=1)
    assert len(store) == 1
    assert list(contents(tmp_path)) == ["manifest.jsonl", "shard-00000.safetensors"]


def test_the_digest_is_of_the_content(tmp_path: Path) -> None:
    one = store_of(tmp_path / "one")
    assert one.digest == store_of(tmp_path / "two").digest
    assert one.digest == ShardStore.open(tmp_path / "one").digest
    other = store_of(tmp_path / "three", shards=1)
    before = other.digest
    other.write(1, shard(11))
    assert other.digest not in (before, one.digest)
    assert store_of(tmp_path / "four", table="abd").digest != one.digest


@pytest.mark.parametrize("damage", ["truncated", "missing", "foreign"])
def test_a_damaged_shard_is_named(tmp_path: Path, damage: str) -> None:
    store_of(tmp_path)
    path = tmp_path / "shard-00001.safetensors"
    if damage == "missing":
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[:-3] if damage == "truncated" else b"not tensors")
    store = ShardStore.open(tmp_path)
    for use in (store.verdicts, lambda: list(store.shards())):
        with pytest.raises(RunError, match=r"shard-00001\.safetensors is missing or damaged"):
            use()


def test_a_flipped_bit_is_found(tmp_path: Path) -> None:
    store = store_of(tmp_path)
    path = tmp_path / "shard-00000.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(RunError, match=r"shard-00000\.safetensors is missing or damaged"):
        store.read(0)


def test_no_store(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"manifest\.jsonl is missing"):
        ShardStore.open(tmp_path / "none")
    assert not (tmp_path / "none").exists()


def test_seconds_add_up_over_runs_outside_the_folder(tmp_path: Path) -> None:
    clock, folder = tmp_path / "timings.json", tmp_path / "000"
    store = ShardStore(folder, MADE_FROM, clock)
    assert store.seconds == 0.0
    store.write(0, shard(0), 1.5)
    other = ShardStore(tmp_path / "001", MADE_FROM, clock)
    other.write(0, shard(0), 100.0)
    store = ShardStore(folder, MADE_FROM, clock)
    store.write(1, shard(1), 2.25)
    assert store.seconds == 3.75
    assert "seconds" not in (folder / "manifest.jsonl").read_text()
    # Made anew, the time of what is gone is gone.
    assert ShardStore(folder, {**MADE_FROM, "code": 2}, clock).seconds == 0.0
    assert other.seconds == 100.0


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ({"a": 1}, {"a": 1}, None),
        ({"a": {"b": [1, 2]}}, {"a": {"b": [1, 3]}}, "a.b"),
        ({"a": 1}, {"a": 1, "b": None}, "b"),
        ({"a": {"b": 1}}, {"a": {}}, "a.b"),
        ({"a": {"b": 1}}, {"a": 2}, "a"),
        ({"z": 1, "b": 1}, {"z": 2, "b": 2}, "b"),
        (1, 2, "value"),
        ({"whitening": None}, {"whitening": {"dimension": 4}}, "whitening"),
    ],
)
def test_the_first_difference(old: Any, new: Any, expected: str | None) -> None:
    assert first_difference(old, new) == expected


@given(JSON, JSON)
def test_no_difference_is_equality(old: Any, new: Any) -> None:
    assert (first_difference(old, new) is None) == (old == new)
