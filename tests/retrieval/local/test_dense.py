"""Dense RootSIFT: its grid, its thinning, its contrast, and a photograph turned by a quarter."""

from __future__ import annotations

import numpy as np
import pytest
from pydantic import ValidationError

from retrieval.local.dense import DenseConfig, detect, grid
from retrieval.local.features import LocalFeatures
from tests.features import assert_threads_change_nothing
from tests.photographs import blank, picture
from tests.warps import following, textured

WHOLE = DenseConfig(keypoints=100_000, min_contrast=0.0)


def places(features: LocalFeatures) -> list[tuple[float, float, float]]:
    rows = np.column_stack([features.points, features.scales])
    return [tuple(row) for row in np.round(rows, 2).tolist()]


@pytest.mark.parametrize(("size", "width", "step"), [((60, 80), 16.0, 8), ((37, 50), 11.5, 5)])
def test_patches_lie_inside_and_about_the_middle(
    size: tuple[int, int], width: float, step: int
) -> None:
    points = grid(size, width, step)
    limit = np.array([size[1], size[0]]) - 1
    assert (points - (width - 1) / 2 >= -1e-4).all()
    assert (points + (width - 1) / 2 <= limit + 1e-4).all()
    np.testing.assert_allclose(points.min(axis=0) + points.max(axis=0), limit, atol=1e-4)
    columns = np.unique(points[:, 0])
    np.testing.assert_allclose(np.diff(columns), step)
    # One more would not fit.
    assert columns[-1] - columns[0] + step + width > size[1]


def test_every_scale_has_its_grid() -> None:
    config = WHOLE.model_copy(update={"scales": (16.0, 32.0)})
    features = detect(textured(0, 100, 130), config)
    expected = [
        (*point, width)
        for width in config.scales
        for point in np.round(grid((100, 130), width, WHOLE.step), 2).tolist()
    ]
    assert sorted(places(features)) == sorted(expected)
    # A larger patch is another descriptor, not the same one again.
    by_place = dict(zip(places(features), features.descriptors, strict=True))
    both = [
        (by_place[(x, y, 16.0)], by_place[(x, y, 32.0)])
        for x, y, width in by_place
        if width == 16.0 and (x, y, 32.0) in by_place
    ]
    assert len(both) > 50
    assert np.mean([one @ other for one, other in both]) < 0.95


def test_a_long_list_is_thinned_evenly() -> None:
    photograph = textured(1, 200, 240)
    all_of_them = detect(photograph, WHOLE)
    fewer = detect(photograph, DenseConfig(keypoints=200, min_contrast=0.0))
    assert len(fewer) == 200 < len(all_of_them)
    assert set(places(fewer)) < set(places(all_of_them))
    share = 200 / len(all_of_them)
    for width in WHOLE.scales:
        kept = (fewer.scales == width).sum()
        assert kept == pytest.approx(share * (all_of_them.scales == width).sum(), abs=2)
    for half in (fewer.points[:, 1] < 100, fewer.points[:, 0] < 120):
        assert 80 < half.sum() < 120


def test_most_contrast_comes_first() -> None:
    photograph = textured(1)
    photograph[:, :180] = 120 + photograph[:, :180] // 8
    features = detect(photograph, DenseConfig(min_contrast=0.0))
    faint = features.points[:, 0] < 150
    assert faint[: len(features) // 3].mean() < 0.1 < 0.5 < faint[-len(features) // 3 :].mean()


def test_flat_patches_are_left_out() -> None:
    photograph = textured(1)
    photograph[:, :180] = 120
    assert (detect(photograph, DenseConfig()).points[:, 0] > 180 - 18).all()
    counts = [len(detect(textured(1), DenseConfig(min_contrast=c))) for c in (1.0, 8.0, 30.0)]
    assert counts[0] > counts[1] > counts[2]


@pytest.mark.parametrize("upright", [True, False])
def test_a_quarter_turn(upright: bool) -> None:
    """Every patch lies on the turned grid too; its descriptor is the same only if it turns."""
    photograph = textured(3, 140, 180)
    config = WHOLE.model_copy(update={"upright": upright})
    before = detect(photograph, config)
    after = detect(np.ascontiguousarray(np.rot90(photograph)), config)
    turned = dict(zip(places(after), zip(after.descriptors, after.angles, strict=True),
                      strict=True))  # fmt: skip
    pairs = [
        (one, angle, *turned[(y, 179 - x, width)])
        for (x, y, width), one, angle in zip(
            places(before), before.descriptors, before.angles, strict=True
        )
    ]
    assert len(pairs) == len(after)
    likeness = np.array([one @ other for one, _, other, _ in pairs])
    turns = np.array([new - old for _, old, _, new in pairs])
    if upright:
        assert (turns == 0).all()
        assert (likeness > 0.9).mean() < 0.1
    else:
        assert (likeness > 0.9).mean() > 0.85
        assert (np.abs(np.angle(np.exp(1j * (turns + np.pi / 2)))) < 0.1).mean() > 0.85


def test_turned_patches_find_their_like() -> None:
    """Though no point of the grid lies where another did."""
    followed, upright = (
        following(lambda one, u=u: detect(one, DenseConfig(upright=u)), 30, 1.0)
        for u in (False, True)
    )
    assert followed.right > 0.3
    assert followed.matches > 200
    assert followed.turn == pytest.approx(-30, abs=3)
    assert upright.right < 0.05


def test_a_smaller_photograph_is_met_by_smaller_patches() -> None:
    followed = following(lambda one: detect(one, DenseConfig()), 0, 2 / 3)
    assert followed.right > 0.5
    assert followed.ratio == pytest.approx(2 / 3)


def test_threads_change_nothing() -> None:
    config = DenseConfig(upright=False)
    photographs = [picture(seed) for seed in range(3)]
    assert_threads_change_nothing(lambda one: detect(one, config), photographs)


@pytest.mark.parametrize(
    "photograph", [blank(), blank(2, 2), picture(1, 15, 400), picture(1, 400, 3)],
    ids=["blank", "tiny", "low", "narrow"],
)  # fmt: skip
@pytest.mark.parametrize("min_contrast", [0.0, 2.0])
def test_nothing_to_find(photograph: np.ndarray, min_contrast: float) -> None:
    features = detect(photograph, DenseConfig(min_contrast=min_contrast, upright=False))
    assert len(features) == 0
    assert features.codes.shape == (0, 128)
    assert features.size == photograph.shape[:2]


@pytest.mark.parametrize("scales", [[], [4.0], "16", [16.0, -1.0]])
def test_widths_that_make_no_patch_are_refused(scales: object) -> None:
    with pytest.raises(ValidationError):
        DenseConfig.model_validate({"scales": scales})
