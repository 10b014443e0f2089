"""Whitening against singular values and scikit-learn."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.decomposition import PCA

from retrieval.errors import ConfigError
from retrieval.types import unit_rows
from retrieval.vectors import whitening
from retrieval.vectors.whitening import AugmentedRows, Whitening, WhiteningConfig
from tests.oracles import descriptors as oracle


def rows(n: int, d: int, seed: int = 0) -> NDArray[np.float32]:
    """Unit rows that vary more in some directions than in others, off the origin."""
    random = np.random.default_rng(seed)
    spread = random.normal(size=(n, d)) * np.linspace(2, 0.2, d) + random.normal(size=d)
    return unit_rows(spread @ np.linalg.qr(random.normal(size=(d, d)))[0])


def up_to_sign(a: NDArray[np.floating], b: NDArray[np.floating]) -> NDArray[np.floating]:
    """``a`` with its columns turned to point along those of ``b``."""
    return a * np.sign((a * b).sum(axis=0))


@pytest.mark.parametrize(("n", "d"), [(60, 10), (12, 40), (30, 30)])
@pytest.mark.parametrize(
    ("power", "shrinkage"), [(-0.5, 0.0), (-0.3, 0.0), (0.0, 0.0), (-0.5, 0.4)]
)
def test_against_the_definition(n: int, d: int, power: float, shrinkage: float) -> None:
    known = rows(n, d)
    config = WhiteningConfig(dimension=8, power=power, shrinkage=shrinkage)
    found = Whitening.fit(known, config).apply(known)
    expected = oracle.whiten(known.astype(np.float64), 8, power, shrinkage)
    np.testing.assert_allclose(up_to_sign(found, expected), expected, atol=2e-4)


@pytest.mark.parametrize(("n", "d", "shrinkage"), [(60, 10, 0.0), (60, 10, 0.3), (12, 40, 0.2)])
@pytest.mark.parametrize("power", [-0.5, -0.25])
def test_pairs_against_all_of_them_listed(n: int, d: int, shrinkage: float, power: float) -> None:
    known = rows(n, d)
    labels = [None if i % 5 == 0 else "single" if i == 1 else f"{i % 4}" for i in range(n)]
    config = WhiteningConfig(dimension=6, power=power, shrinkage=shrinkage, learnt_on="pairs")
    learnt = Whitening.fit(known, config, labels=labels)
    found = learnt.apply(known)
    expected = oracle.whiten_on_pairs(known.astype(np.float64), labels, 6, power, shrinkage)
    np.testing.assert_allclose(up_to_sign(found, expected), expected, atol=1e-3)
    again = Whitening.fit(known[::-1].copy(), config, labels=labels[::-1])
    np.testing.assert_allclose(again.projection, learnt.projection, rtol=2e-2, atol=1e-2)


@pytest.mark.parametrize("learnt_on", ["pairs", "all"])
@pytest.mark.parametrize(("n", "d"), [(40, 10), (9, 60)])
def test_views_against_all_pairs_listed(n: int, d: int, learnt_on: Any) -> None:
    """Beside a landmark's photographs a photograph's own views, or these alone."""
    known = rows(n, d)
    labels = [None if i % 5 == 0 else f"{i % 4}" for i in range(n)]
    of = [i for i in range(0, n, 2) for _ in range(1 + i % 3)]
    views = unit_rows(known[of] + 0.1 * rows(len(of), d, 1))
    config = WhiteningConfig(
        dimension=6, power=-0.25, shrinkage=0.2, learnt_on=learnt_on, views=2
    )  # fmt: skip
    learnt = Whitening.fit(known, config, labels=labels, views=AugmentedRows(views, np.array(of)))
    found = learnt.apply(known)
    expected = oracle.whiten_on_pairs(
        known.astype(np.float64), labels if learnt_on == "pairs" else None, 6, -0.25, 0.2,
        (views.astype(np.float64), of),
    )  # fmt: skip
    np.testing.assert_allclose(up_to_sign(found, expected), expected, atol=1e-3)


def test_views_teach_what_a_single_photograph_a_landmark_cannot() -> None:
    """Light and shade again, with one photograph a landmark and its views in another light."""
    random = np.random.default_rng(0)
    landmarks = np.arange(30)

    def seen(spread: float) -> NDArray[np.float32]:
        told = np.random.default_rng(1).normal(size=(30, 3)) + 0.1 * random.normal(size=(30, 3))
        return unit_rows(
            np.hstack([told, spread * random.normal(size=(30, 3)), np.full((30, 1), 60)])
        )

    known, query, views = (
        seen(5),
        seen(5),
        AugmentedRows(np.vstack([seen(5), seen(5)]), np.r_[:30, :30]),
    )

    def right(views: AugmentedRows | None) -> float:
        white = Whitening.fit(known, WhiteningConfig(dimension=3, power=0.0), views=views)
        likeness = white.apply(query) @ white.apply(known).T
        return float((likeness.argmax(axis=1) == landmarks).mean())

    assert right(views) > 0.8 > 0.4 > right(None)


def test_pairs_teach_what_does_not_tell_landmarks_apart() -> None:
    """The direction of largest variance is light and shade; PCA keeps it, pairs do not."""
    random = np.random.default_rng(0)
    landmarks = np.repeat(np.arange(10), 12)
    told = random.normal(size=(10, 3))[landmarks] + 0.1 * random.normal(size=(120, 3))
    shade = 5 * random.normal(size=(120, 3))
    known = unit_rows(np.hstack([told, shade, np.full((120, 1), 60)]))
    labels = [str(one) for one in landmarks]

    def right(learnt_on: Any) -> float:
        config = WhiteningConfig(dimension=3, power=0.0, learnt_on=learnt_on)
        white = Whitening.fit(known, config, labels=labels).apply(known)
        likeness = white @ white.T - 2 * np.eye(120)
        return float((landmarks[likeness.argmax(axis=1)] == landmarks).mean())

    assert right("pairs") > 0.9 > 0.5 > right("all")


def test_pairs_must_be_there() -> None:
    config = WhiteningConfig(dimension=4, learnt_on="pairs", shrinkage=0.1)
    for labels in (None, [None] * 9, [str(i) for i in range(9)]):
        with pytest.raises(ConfigError, match="with two photographs, and there is none: take"):
            Whitening.fit(rows(9, 5), config, labels=labels)
    few = [str(i // 2) for i in range(9)]
    with pytest.raises(ConfigError, match=r"too few differences for 8 direc.*shrinkage"):
        Whitening.fit(rows(9, 20), config.model_copy(update={"shrinkage": 0.0}), labels=few)
    views = AugmentedRows(rows(2, 20, 1), np.array([0, 3]))
    with pytest.raises(ConfigError, match=r"shrinkage \(0.1, say\) or more .* views \(viewed\)"):
        Whitening.fit(rows(9, 20), WhiteningConfig(dimension=4, views=1), views=views)


@pytest.mark.parametrize(("n", "d"), [(60, 10), (12, 40)])
def test_against_scikit_learn_on_rows_that_it_has_not_seen(n: int, d: int) -> None:
    known, new = rows(n, d), rows(7, d, seed=1)
    found = Whitening.fit(known, WhiteningConfig(dimension=6)).apply(new)
    pca = PCA(n_components=6, whiten=True, svd_solver="full").fit(known.astype(np.float64))
    expected = unit_rows(pca.transform(new))
    np.testing.assert_allclose(up_to_sign(found, expected), expected, atol=2e-4)


@pytest.mark.parametrize(("n", "d"), [(60, 24), (24, 60)])
def test_the_randomised_way_agrees_with_the_full_one(
    n: int, d: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = rows(n, d)
    full = Whitening.fit(known, WhiteningConfig(dimension=5))
    monkeypatch.setattr(whitening, "EXACT_LIMIT", 10)
    quick = Whitening.fit(known, WhiteningConfig(dimension=5), seed=3)
    # Signs are settled by the directions alone, so not even they differ.
    np.testing.assert_allclose(quick.projection, full.projection, rtol=1e-3, atol=1e-3)
    again = Whitening.fit(known, WhiteningConfig(dimension=5), seed=3)
    np.testing.assert_array_equal(again.projection, quick.projection)


@pytest.mark.parametrize(("n", "d"), [(60, 10), (12, 40)])
def test_signs_are_settled(n: int, d: int) -> None:
    """Rows in another order are another sum of the same matrix, and the same directions."""
    known = rows(n, d)
    one = Whitening.fit(known, WhiteningConfig(dimension=6))
    other = Whitening.fit(known[::-1].copy(), WhiteningConfig(dimension=6))
    np.testing.assert_allclose(one.projection, other.projection, rtol=1e-3, atol=1e-3)
    largest = np.abs(one.projection).argmax(axis=0)
    assert (one.projection[largest, np.arange(6)] > 0).all()


def test_whitened_rows_vary_alike_in_all_directions() -> None:
    known = rows(400, 12)
    learnt = Whitening.fit(known, WhiteningConfig(dimension=12))
    projected = (known - learnt.mean) @ learnt.projection
    # Unit rows lie on a sphere about the origin: every direction but that one is left.
    np.testing.assert_allclose(np.cov(projected.T, bias=True), np.eye(12), atol=1e-2)


def test_rows_are_of_unit_length() -> None:
    found = Whitening.fit(rows(30, 10), WhiteningConfig(dimension=4)).apply(rows(9, 10, seed=2))
    assert found.shape == (9, 4)
    assert found.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-6)


def test_no_more_numbers_than_were_seen() -> None:
    """Five photographs span four directions; a fifth would be noise blown up."""
    assert Whitening.fit(rows(5, 40), WhiteningConfig(dimension=256)).dimension == 4
    assert Whitening.fit(rows(50, 8), WhiteningConfig(dimension=256)).dimension == 8


def test_too_little_to_learn_from() -> None:
    with pytest.raises(ConfigError, match="at least two photographs"):
        Whitening.fit(rows(1, 8), WhiteningConfig())
    with pytest.raises(ConfigError, match="all look alike"):
        Whitening.fit(np.repeat(rows(1, 8), 20, axis=0), WhiteningConfig())


def test_what_is_saved_is_loaded(tmp_path: Path) -> None:
    learnt = Whitening.fit(rows(12, 30), WhiteningConfig(dimension=6))
    learnt.save(tmp_path)
    loaded = Whitening.load(tmp_path)
    np.testing.assert_array_equal(loaded.apply(rows(3, 30)), learnt.apply(rows(3, 30)))
    assert loaded.dimension == 6
