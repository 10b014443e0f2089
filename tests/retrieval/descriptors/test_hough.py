"""Lines: where their votes fall, and how votes move when the photograph does."""

from __future__ import annotations

import math

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from retrieval.descriptors.hough import (
    HoughConfig,
    HoughExtractor,
    find_segments,
    line_votes,
    place_votes,
    vanishing_votes,
)
from tests.photographs import blank, picture

Values = NDArray[np.float64]
SMALL = HoughConfig(size=256, angles=12, offsets=9)


def drawn(*lines: tuple[float, float, float, float], side: int = 240) -> NDArray[np.uint8]:
    """A photograph of dark bars on light ground, ends in pixels (x, y, x, y)."""
    photograph = np.full((side, side, 3), 220, dtype=np.uint8)
    for x0, y0, x1, y1 in lines:
        ends = [(round(x0), round(y0)), (round(x1), round(y1))]
        cv2.line(photograph, ends[0], ends[1], (30, 30, 30), 5, cv2.LINE_AA)
    return photograph


def stripes(degrees: float, shift: float = 0.0, side: int = 240) -> NDArray[np.uint8]:
    """Bars at an angle to the horizontal, moved along their normal."""
    turn = math.radians(degrees)
    along, across = (math.cos(turn), math.sin(turn)), (-math.sin(turn), math.cos(turn))
    lines = []
    for place in (-60, -20, 20, 60):
        x = side / 2 + (place + shift) * across[0]
        y = side / 2 + (place + shift) * across[1]
        lines.append((x - 80 * along[0], y - 80 * along[1], x + 80 * along[0], y + 80 * along[1]))
    return drawn(*lines, side=side)


def scribble(seed: int) -> NDArray[np.uint8]:
    """A few bars anywhere."""
    return drawn(*np.random.default_rng(seed).uniform(20, 220, size=(8, 4)))


def described(*photographs: NDArray[np.uint8], config: HoughConfig = SMALL) -> NDArray[np.float32]:
    extractor = HoughExtractor(config)
    rows = extractor.aggregate(extractor.features(photographs))
    assert rows.shape == (len(photographs), extractor.dimension)
    return rows


def segment(x0: float, y0: float, x1: float, y1: float) -> Values:
    return np.array([[[x0, y0], [x1, y1]]])


def test_a_line_s_two_sides_are_found_where_they_are() -> None:
    found = find_segments(drawn((40, 60, 200, 60)), 0.05, 10)
    assert len(found) == 2
    half = math.hypot(240, 240) / 2
    pixels = found * half + 119.5
    np.testing.assert_allclose(np.sort(pixels[:, :, 1].mean(axis=1)), [57, 63], atol=1.5)
    np.testing.assert_allclose(np.sort(pixels[:, :, 0], axis=1), [[40, 200]] * 2, atol=6)


def test_short_segments_are_left_out_and_the_longest_stay() -> None:
    photograph = drawn((20, 60, 220, 60), (20, 120, 120, 120), (20, 180, 60, 180))
    lengths = [np.ptp(find_segments(photograph, 0.0, most)[:, :, 0], axis=1) for most in (2, 4, 99)]
    assert [len(one) for one in lengths[:2]] == [2, 4]
    assert lengths[0].min() > lengths[1].min() > lengths[2].min()
    assert (np.diff(lengths[2]) < 0.01).all()
    assert len(find_segments(photograph, 0.2, 99)) == 4


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("degrees", [0.0, 15.0, 60.0, 90.0, 135.0, 165.0])
def test_a_line_votes_for_its_normal_and_distance(degrees: float, reverse: bool) -> None:
    # The normal at ``degrees``, half way to the right end of the offsets; 12 bins of 15 degrees.
    turn = math.radians(degrees)
    normal, along = (
        np.array([math.cos(turn), math.sin(turn)]),
        0.2 * np.array([-math.sin(turn), math.cos(turn)]),
    )
    ends = np.array([[0.5 * normal - along, 0.5 * normal + along]])
    votes = line_votes(ends[:, ::-1] if reverse else ends, 12, 9)
    expected = np.zeros((12, 9))
    expected[round(degrees / 15), 6] = 0.4
    np.testing.assert_allclose(votes, expected, atol=1e-9)


def test_half_a_turn_on_a_distance_is_its_negative() -> None:
    """Between the last angle and the first, votes go to mirrored offsets."""
    turn = math.radians(172.5)
    normal = np.array([math.cos(turn), math.sin(turn)])
    along = np.array([-normal[1], normal[0]])
    votes = line_votes(np.array([[0.5 * normal, 0.5 * normal + along]]), 12, 9)
    assert votes[11, 6] == pytest.approx(0.5)
    assert votes[0, 2] == pytest.approx(0.5)
    assert votes.sum() == pytest.approx(1.0)


def test_votes_count_lengths() -> None:
    twice = np.concatenate([segment(-0.2, 0.1, 0.2, 0.1), segment(0.3, -0.3, 0.3, 0.5)])
    assert line_votes(twice, 12, 9).sum() == pytest.approx(1.2)
    assert place_votes(twice, (100, 100), 12, 4).sum() == pytest.approx(1.2)


def test_places_are_cells_of_the_photograph() -> None:
    # Half the diagonal is 1: the corners of a 3 : 4 photograph are at (0.8, 0.6).
    level = place_votes(segment(0.41, -0.45, 0.79, -0.45), (300, 400), 12, 2)
    assert np.argwhere(level > 0.1).tolist() == [[0, 1, 0]]
    upright = place_votes(segment(-0.6, 0.31, -0.6, 0.59), (300, 400), 12, 2)
    assert np.argwhere(upright > 0.1).tolist() == [[1, 0, 6]]


def test_a_long_line_votes_along_its_way() -> None:
    votes = place_votes(segment(-0.8, 0.0, 0.8, 0.0), (300, 400), 12, 4)[..., 0]
    assert (votes.sum(axis=0) > 0.3).all()
    np.testing.assert_allclose(votes, votes[:, ::-1], atol=1e-9)


@pytest.mark.parametrize("point", [(0.0, 0.5), (2.0, 0.0), (-1.5, 1.0), (3.0, -4.0)])
def test_lines_that_meet_vote_for_their_vanishing_direction(point: tuple[float, float]) -> None:
    place = np.array(point)
    # Six lines towards the point, each told by two ends on its way.
    starts = place + 2 * np.array([[math.cos(a), math.sin(a)] for a in np.linspace(0, 0.6, 6)])
    segments = np.stack([starts, starts + 0.3 * (place - starts)], axis=1)
    votes = vanishing_votes(segments, 36, 41)
    # Its angle around the middle, and the depth of the unit vector towards it.
    angle, depth = math.atan2(point[1], point[0]), 1 / math.hypot(*point, 1)
    if angle < 0:
        angle, depth = angle + math.pi, -depth
    expected = np.array([angle / math.pi * 36, (depth + 1) * 20])
    assert (np.abs(np.argwhere(votes > 0.01 * votes.sum()) - expected) <= 1).all()


def test_parallels_meet_infinitely_far_away() -> None:
    upright = np.concatenate([segment(x, -0.4, x, 0.4) for x in (-0.5, 0.1, 0.4)])
    votes = vanishing_votes(upright, 12, 9)
    assert np.argwhere(votes > 1e-9).tolist() == [[6, 4]]


def test_pieces_of_one_line_and_corners_say_nothing_of_depth() -> None:
    pieces = np.concatenate([segment(-0.5, 0.1, -0.1, 0.1), segment(0.1, 0.1, 0.5, 0.1)])
    np.testing.assert_allclose(vanishing_votes(pieces, 12, 9), 0, atol=1e-9)
    corner = np.concatenate([segment(0.0, 0.0, 0.4, 0.0), segment(0.0, 0.0, 0.0, 0.4)])
    np.testing.assert_array_equal(vanishing_votes(corner, 12, 9), 0)


def test_turned_stripes_move_by_the_angle() -> None:
    angles, offsets = SMALL.angles, SMALL.offsets
    profiles = []
    for degrees in (0, 15, 90):
        segments = find_segments(stripes(degrees), SMALL.shortest, SMALL.segments)
        profiles.append(line_votes(segments, angles, offsets).sum(axis=1))
    assert [int(profile.argmax()) for profile in profiles] == [6, 7, 0]
    rows = described(stripes(0), stripes(2), stripes(15), stripes(90))
    likeness = rows[1:] @ rows[0]
    assert likeness[0] > 0.85
    assert likeness[0] > likeness[1] + 0.2 > likeness[2] + 0.2


def test_a_shifted_line_moves_by_the_shift() -> None:
    bars = [drawn((40, y, 200, y)) for y in (60, 62, 90, 150)]
    rows = described(*bars)
    likeness = rows[1:] @ rows[0]
    assert likeness[0] > 0.9
    assert likeness[0] > likeness[1] + 0.1 > likeness[2] + 0.2


def test_light_changes_little() -> None:
    photograph, other = scribble(1), scribble(2)
    rows = described(photograph, photograph // 2 + 60, other)
    likeness = rows[1:] @ rows[0]
    assert likeness[0] > 0.95
    assert likeness[0] > likeness[1] + 0.2


def test_blocks_weigh_the_same() -> None:
    (row,) = described(picture(1, 200, 256))
    lines = SMALL.angles * SMALL.offsets
    blocks = np.split(row, [lines, lines + SMALL.angles * SMALL.grid**2])
    np.testing.assert_allclose([np.linalg.norm(block) ** 2 for block in blocks], 1 / 3, atol=1e-5)


def test_the_power_levels_bursts() -> None:
    (root,) = described(picture(1, 200, 256))
    (plain,) = described(picture(1, 200, 256), config=SMALL.model_copy(update={"power": 1.0}))
    for block in (slice(0, 108), slice(108, 300), slice(300, None)):
        expected = np.sqrt(plain[block] / np.linalg.norm(plain[block]))
        np.testing.assert_allclose(
            root[block] / np.linalg.norm(root[block]),
            expected / np.linalg.norm(expected), atol=1e-5,
        )  # fmt: skip


@pytest.mark.parametrize("photograph", [blank(), picture(1, 8, 200), picture(1, 2, 2)])
def test_photographs_without_a_line_give_zeros(photograph: NDArray[np.uint8]) -> None:
    np.testing.assert_array_equal(described(photograph), 0)


def test_a_single_line_has_no_pair_and_goes_through() -> None:
    edge = np.full((120, 160, 3), 40, dtype=np.uint8)
    edge[60:] = 200
    (row,) = described(edge)
    assert len(find_segments(edge, SMALL.shortest, SMALL.segments)) == 1
    assert np.linalg.norm(row) == pytest.approx(1, abs=1e-5)
    np.testing.assert_array_equal(row[300:], 0)
