"""Tables to descriptors on disk: what is known is not looked at again, and a killed run goes on."""

from __future__ import annotations

import os
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from retrieval.aggregation.vlad import VladConfig
from retrieval.descriptors import cache, extraction
from retrieval.descriptors.aggregated import AggregatedConfig
from retrieval.descriptors.base import Extractor
from retrieval.descriptors.cache import (
    KnownFeatures,
    describe_table,
    described_from,
    extract_table,
    read_described,
    table_digest,
)
from retrieval.descriptors.describer import NO_FEATURES, Describer
from retrieval.descriptors.extraction import extract
from retrieval.descriptors.hog import HogConfig
from retrieval.descriptors.registry import JointConfig, PartConfig, build_extractor
from retrieval.descriptors.sample import Chosen, Sample
from retrieval.errors import ConfigError
from retrieval.local.sift import SiftConfig
from retrieval.photographs.table import make_table
from retrieval.storage.shards import Shard, ShardStore
from retrieval.vectors.whitening import AugmentedRows, Whitening, WhiteningConfig
from tests.photographs import blank, features_of, picture, write_photograph

SIFT = AggregatedConfig(local=SiftConfig(size=128, keypoints=60), aggregation=VladConfig(words=4))
BROKEN, BLANK = 5, 9
ROWS = 14


@pytest.fixture(autouse=True)
def small_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Four rows a shard, so that fourteen photographs make four shards."""
    monkeypatch.setattr(cache, "WINDOW", 4)


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> pd.DataFrame:
    """Fourteen photographs, one of them broken and one blank."""
    folder = tmp_path_factory.mktemp("photographs")
    paths = []
    for i in range(ROWS):
        path = write_photograph(folder / f"{i}.jpg", blank() if i == BLANK else picture(i))
        if i == BROKEN:
            path.write_bytes(path.read_bytes()[:300])
        paths.append(str(path))
    return make_table([f"p{i}" for i in range(ROWS)], paths, ["L"] * ROWS)


@pytest.fixture(scope="module")
def describer(table: pd.DataFrame) -> Describer:
    extractor: Extractor = build_extractor(SIFT, "cpu", 0)
    features = features_of(extractor, [picture(i) for i in range(ROWS)])
    return Describer.fit(extractor, features, WhiteningConfig(dimension=8), 0)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def fields(describer: Describer, table: pd.DataFrame) -> dict[str, Any]:
    return described_from({"extractor": describer.extractor.identity()}, table_digest(table))


def test_every_row_has_a_status_and_the_good_ones_a_descriptor(
    table: pd.DataFrame, describer: Describer, tmp_path: Path
) -> None:
    told: list[tuple[int, int]] = []
    store = describe_table(
        table, describer, tmp_path / "000", fields(describer, table),
        lambda done, failed: told.append((done, failed)),
    )  # fmt: skip
    described = read_described(table, store, describer)
    statuses = ["ok"] * ROWS
    statuses[BROKEN], statuses[BLANK] = "decode_failed", "describe_failed"
    assert described.table["status"].tolist() == statuses
    assert described.table["reason"].iloc[BLANK] == NO_FEATURES
    assert "truncated" in described.table["reason"].iloc[BROKEN]
    assert (described.table["reason"] == "").sum() == ROWS - 2
    assert told == [(4, 0), (4, 1), (4, 1), (2, 0)]
    vectors = described.descriptors.vectors
    assert vectors.shape == (ROWS - 2, 8)
    assert described.ok["id"].tolist() == [f"p{i}" for i in range(ROWS) if i not in (BROKEN, BLANK)]
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    (alone,) = extract([[table["source"].iloc[6]]], describer.extractor)
    # p6 is the sixth good one, p5 being broken.
    np.testing.assert_allclose(vectors[5], describer.from_features(alone).vectors[0], atol=1e-6)


@pytest.mark.parametrize("survivors", [0, 1, 3])
def test_a_run_cut_short_goes_on_to_the_same_bytes(
    table: pd.DataFrame, describer: Describer, tmp_path: Path, survivors: int
) -> None:
    whole = describe_table(table, describer, tmp_path / "whole", fields(describer, table))
    done = 0

    def interrupt(rows: int, failed: int) -> None:
        nonlocal done
        done += 1
        if done > survivors:
            raise KeyboardInterrupt

    def again(**more: Any) -> ShardStore:
        return describe_table(table, describer, tmp_path / "cut", fields(describer, table), **more)

    with pytest.raises(KeyboardInterrupt):
        again(progress=interrupt)
    # The shard that was just written, and those before, are there.
    assert len(ShardStore.open(tmp_path / "cut")) == survivors + 1
    told: list[tuple[int, int]] = []
    store = again(progress=lambda rows, failed: told.append((rows, failed)))
    assert sum(rows for rows, _ in told) == ROWS
    assert sum(failed for _, failed in told) == 2
    assert contents(tmp_path / "cut") == contents(tmp_path / "whole")
    assert store.digest == whole.digest


def test_nothing_is_described_twice(
    table: pd.DataFrame, describer: Describer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    describe_table(table, describer, tmp_path, fields(describer, table))
    before = contents(tmp_path)
    monkeypatch.setattr(extraction, "read_photograph", None)
    describe_table(table, describer, tmp_path, fields(describer, table))
    assert contents(tmp_path) == before


def test_what_is_known_is_not_looked_at_again(
    table: pd.DataFrame, describer: Describer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = describe_table(table, describer, tmp_path / "anew", fields(describer, table))
    positions = [0, 2, 3, BROKEN, BLANK, 12]
    sources = table["source"].iloc[positions].tolist()
    known = dict(zip(positions, *extract([sources], describer.extractor), strict=True))
    read: list[str] = []
    real = extraction.read_photograph

    def noted(source: str, longest_side: int) -> Any:
        read.append(source)
        return real(source, longest_side)

    monkeypatch.setattr(extraction, "read_photograph", noted)
    store = describe_table(
        table, describer, tmp_path / "known", fields(describer, table), known=known
    )
    assert contents(tmp_path / "known") == contents(tmp_path / "anew")
    assert store.digest == whole.digest
    assert sorted(read) == sorted(set(table["source"]) - set(sources))


def test_features_are_kept_as_descriptors_are(table: pd.DataFrame, tmp_path: Path) -> None:
    """The sample that whitening and codebook learn from."""
    extractor = build_extractor(SIFT, "cpu", 0)
    store = ShardStore(tmp_path, {"sample": True})
    extract_table(table, extractor, store)
    kept = [one for shard in store.shards() for one in extractor.unpack(shard.arrays)]
    # A blank photograph is one without features, and no failure here.
    assert [len(one) > 0 for one in kept].count(False) == 1
    assert store.failed == 1
    assert len(kept) == ROWS - 1


def test_threads_read_kept_features_beside_each_other(
    table: pd.DataFrame, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As whitenings within an extractor do, each without a part of the photographs."""
    extractor, store = build_extractor(HogConfig(), "cpu", 0), ShardStore(tmp_path, {"sample": 1})
    extract_table(table, extractor, store)
    known = KnownFeatures(extractor, store, np.arange(ROWS))
    expected = [known[one] for one in known.good_positions]
    together, reads = threading.Barrier(2), []
    read = store.read

    def slow(number: int) -> Shard:
        together.wait(5)  # both are at another shard each
        reads.append(number)
        return read(number)

    monkeypatch.setattr(store, "read", slow)
    with ThreadPoolExecutor(2) as pool:
        orders = [range(len(expected)), range(len(expected) - 1, -1, -1)]
        found = list(pool.map(lambda order: list(Chosen(known.good, order)), orders))
    for order, those in zip(orders, found, strict=True):
        np.testing.assert_array_equal(those, [expected[one] for one in order])
    assert len(reads) == 2 * len(store)


def test_other_photographs_are_described_anew(
    table: pd.DataFrame, describer: Describer, tmp_path: Path
) -> None:
    store = describe_table(table.iloc[:4], describer, tmp_path, fields(describer, table[:4]))
    before = store.digest
    other = describe_table(table.iloc[4:8], describer, tmp_path, fields(describer, table[4:8]))
    assert other.digest != before
    assert other.verdicts()[0] == ["ok", "decode_failed", "ok", "ok"]


def test_the_digest_of_a_table_is_of_its_photographs(tmp_path: Path) -> None:
    paths = [str(write_photograph(tmp_path / f"{i}.png", picture(i))) for i in range(2)]
    digest = table_digest(make_table("ab", paths, ["L1", "L2"]))
    assert table_digest(make_table("ab", paths, [None, "L9"], [7, 8])) == digest
    assert table_digest(make_table("ac", paths, ["L1", "L2"])) != digest
    assert table_digest(make_table("ba", paths[::-1], ["L1", "L2"])) != digest
    os.utime(paths[1], ns=(1, 1))
    touched = table_digest(make_table("ab", paths, ["L1", "L2"]))
    assert touched != digest
    os.remove(paths[1])
    assert table_digest(make_table("ab", paths, ["L1", "L2"])) not in (digest, touched)


def test_no_rows(describer: Describer, tmp_path: Path) -> None:
    empty = make_table((), (), ())
    store = describe_table(empty, describer, tmp_path, fields(describer, empty))
    assert (len(store), store.failed) == (0, 0)
    assert read_described(empty, store, describer).descriptors.vectors.shape == (0, 8)
    assert describer.describe([]).vectors.shape == (0, 8)


def test_a_photograph_without_features_stays_zeros_through_whitening(describer: Describer) -> None:
    rows = describer.describe([blank(), picture(1)]).vectors
    np.testing.assert_array_equal(rows[0], 0)
    assert np.linalg.norm(rows[1]) == pytest.approx(1, abs=1e-5)


def test_photographs_without_features_teach_the_whitening_nothing() -> None:
    extractor = build_extractor(SIFT, "cpu", 0)
    good = [picture(i) for i in range(8)]
    config = WhiteningConfig(dimension=4)
    one = Describer.fit(extractor, features_of(extractor, good), config, 0)
    mixed = features_of(extractor, [*good, *[blank()] * 5])
    other = Describer.fit(extractor, mixed, config, 0)
    np.testing.assert_array_equal(one.describe(good).vectors, other.describe(good).vectors)
    with pytest.raises(ConfigError):
        Describer.fit(extractor, features_of(extractor, [blank()] * 5), config, 0)


def test_labels_stay_with_their_photographs() -> None:
    """Those of photographs without features are left out with them."""
    extractor = build_extractor(SIFT, "cpu", 0)
    good = [picture(i) for i in range(8)]
    config = WhiteningConfig(dimension=4, learnt_on="pairs", shrinkage=0.1)
    labels = ["a", "a", "a", "b", "b", None, "c", "c"]
    rows = extractor.fit(features_of(extractor, good), 0).aggregate(features_of(extractor, good))
    expected = Whitening.fit(rows, config, labels=labels)
    mixed = features_of(extractor, [blank(), *good])
    learnt = Describer.fit(extractor, Sample(mixed, ["b", *labels]), config, 0).whitening
    assert learnt is not None
    np.testing.assert_array_equal(learnt.projection, expected.projection)


CROSS_FITTED = [
    (HogConfig(side=64, cells=(16,)), WhiteningConfig(dimension=8)),
    (
        HogConfig(side=64, cells=(16,)),
        WhiteningConfig(dimension=4, learnt_on="pairs", shrinkage=0.1),
    ),
    (SIFT, WhiteningConfig(dimension=4)),
]


@pytest.mark.parametrize(("config", "whitening"), CROSS_FITTED)
def test_each_part_is_left_out_of_a_describer(
    config: Any, whitening: WhiteningConfig, tmp_path: Path
) -> None:
    extractor = build_extractor(config, "cpu", 0)
    photographs = [picture(i) for i in range(12)]
    features = features_of(extractor, photographs)
    labels = [*"aaaabbbb", None, *"ccc"]
    parts = np.arange(12) % 3
    sample = Sample(features, labels, parts)
    plain = Describer.fit(extractor, sample, whitening, 0)
    learnt = Describer.fit(extractor, sample, whitening, 0, left_out=3)
    seen = [*photographs, blank()]
    described = learnt.describe(seen)
    np.testing.assert_array_equal(described.vectors, plain.describe(seen).vectors)
    assert described.calibration is not None
    assert described.calibration.shape[:2] == (13, 3)
    for part in range(3):
        few = np.flatnonzero(parts != part)
        # The codebook is that of all: its words know no photograph.
        rows = learnt.extractor.aggregate([features[i] for i in few])
        without = Whitening.fit(rows, whitening, 0, [labels[i] for i in few])
        alone = Describer(learnt.extractor, without)
        expected = alone.describe(seen).vectors
        width = expected.shape[1]
        np.testing.assert_array_equal(described.calibration[:, part, :width], expected)
        assert not described.calibration[:, part, width:].any()
    # They are for photographs that come into a run: queries are described without.
    learnt.save(tmp_path)
    for wanted in (True, False):
        loaded = Describer.load(tmp_path, extractor, True, calibrated=wanted)
        again = loaded.describe(seen).calibration
        assert (again is not None) == wanted
        if again is not None:
            np.testing.assert_array_equal(again, described.calibration)


def test_a_whitening_within_a_combination_is_learnt_without_the_part_too() -> None:
    part = {"extractor": HogConfig(side=64, cells=(16,)), "whitening": WhiteningConfig(dimension=6)}
    extractor = build_extractor(JointConfig(parts=(PartConfig(**part),)), "cpu", 0)
    photographs = [picture(i) for i in range(12)]
    features, parts = features_of(extractor, photographs), np.arange(12) % 3
    config = WhiteningConfig(dimension=4)
    learnt = Describer.fit(extractor, Sample(features, parts=parts), config, 0, left_out=1)
    few = [features[i] for i in np.flatnonzero(parts != 0)]
    alone = Describer.fit(extractor, few, config, 0)
    described = learnt.from_features(features).calibration
    assert described is not None
    np.testing.assert_array_equal(described[:, 0], alone.vectors(features))


def test_too_few_photographs_to_leave_a_part_out(caplog: pytest.LogCaptureFixture) -> None:
    extractor = build_extractor(HogConfig(side=64, cells=(16,)), "cpu", 0)
    features = features_of(extractor, [picture(i) for i in range(2)])
    sample = Sample(features, parts=np.arange(2))
    learnt = Describer.fit(extractor, sample, WhiteningConfig(dimension=4), 0, left_out=2)
    assert learnt.calibration == ()
    assert "too few photographs to leave a part of them out" in caplog.text


def test_views_stay_with_their_photographs() -> None:
    """Those in which there is nothing, or of a photograph in which there is nothing, are left."""
    extractor = build_extractor(SIFT, "cpu", 0)
    good, views = [picture(i) for i in range(8)], [picture(i) for i in range(8, 14)]
    fitted = extractor.fit(features_of(extractor, good), 0)
    rows, viewed = (fitted.aggregate(features_of(extractor, one)) for one in (good, views))
    config = WhiteningConfig(dimension=4, shrinkage=0.1, views=1)
    of = np.array([0, 0, 2, 3, 3, 7])
    expected = Whitening.fit(rows, config, views=AugmentedRows(viewed, of))
    given = AugmentedRows(
        fitted.aggregate(features_of(extractor, [*views[:3], blank(), *views[3:], views[0]])),
        np.array([1, 1, 3, 3, 4, 4, 8, 0]),
    )
    mixed = features_of(extractor, [blank(), *good])
    learnt = Describer.fit(extractor, Sample(mixed, views=lambda _: given), config, 0).whitening
    assert learnt is not None
    np.testing.assert_array_equal(learnt.projection, expected.projection)


@pytest.mark.parametrize("whitening", [WhiteningConfig(dimension=4), None])
@pytest.mark.parametrize(
    "config", [SIFT, HogConfig(side=64, cells=(16,))], ids=["sift-vlad", "hog"]
)
def test_what_is_saved_is_loaded(
    config: Any, whitening: WhiteningConfig | None, tmp_path: Path
) -> None:
    extractor = build_extractor(config, "cpu", 0)
    photographs = [picture(i) for i in range(6)]
    learnt = Describer.fit(extractor, features_of(extractor, photographs), whitening, 0)
    learnt.save(tmp_path)
    loaded = Describer.load(tmp_path, extractor, whitening is not None)
    assert loaded.dimension == (extractor.dimension if whitening is None else 4)
    assert loaded.longest_side == 128
    np.testing.assert_array_equal(
        loaded.describe(photographs).vectors, learnt.describe(photographs).vectors
    )
