"""ALIKED: its weights' file, its keypoints, and (with the real weights) how it follows a turn."""

from __future__ import annotations

import os
import pickle
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from retrieval.descriptors.extraction import extract
from retrieval.errors import ConfigError, WeightsError
from retrieval.local.learned import FILE, AlikedConfig, AlikedDetector, build, located
from tests.networks import random_aliked
from tests.photographs import blank, picture
from tests.warps import following, textured

SHARED = Path(os.environ.get("LANDMARKS_SHARED", Path(__file__).parents[4] / "shared"))
REAL = SHARED / "weights" / FILE


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return random_aliked(tmp_path_factory.mktemp("weights") / FILE, 0)


@pytest.fixture(scope="module")
def detector(file: Path) -> AlikedDetector:
    return build(AlikedConfig(weights=str(file), keypoints=60), "cpu")


@pytest.fixture(scope="module")
def real() -> AlikedDetector:
    if not REAL.is_file():
        pytest.skip(f"needs {FILE} (LANDMARKS_SHARED)")
    return build(AlikedConfig(weights=str(REAL)), "cpu")


def test_the_strongest_come_first(detector: AlikedDetector, file: Path) -> None:
    (more,) = detector.features([picture(1)])
    fewer = build(AlikedConfig(weights=str(file), keypoints=20), "cpu").features([picture(1)])[0]
    assert (len(fewer), len(more)) == (20, 60)
    np.testing.assert_array_equal(fewer.points, more.points[:20])
    np.testing.assert_array_equal(fewer.codes, more.codes[:20])
    assert more.codes.shape == (60, 128)
    assert more.codes.dtype == np.int8
    assert (more.codes < 0).any()
    np.testing.assert_allclose(np.linalg.norm(more.descriptors, axis=1), 1, atol=0.05)
    assert more.size == (96, 128)
    assert (more.points >= 0).all()
    assert (more.points <= (127, 95)).all()


def test_threads_change_nothing(detector: AlikedDetector) -> None:
    """Photographs of any shape, each a batch of its own."""
    photographs = [picture(1), picture(2, 64, 100), picture(3), picture(4, 100, 64)] * 2
    # As extraction does it, with a torch thread a worker: more of them round otherwise.
    (alone,) = extract([photographs], detector, threads=1)
    (together,) = extract([photographs], detector, threads=4)
    for one, other in zip(alone, together, strict=True):
        np.testing.assert_array_equal(one.points, other.points)
        np.testing.assert_array_equal(one.codes, other.codes)


def test_on_a_gpu_one_thread_describes(detector: AlikedDetector) -> None:
    assert detector.threaded
    assert not replace(detector, device=torch.device("cuda")).threaded


@pytest.mark.parametrize("shape", [(2, 2), (15, 300), (400, 3)])
def test_too_small_for_any_keypoint(detector: AlikedDetector, shape: tuple[int, int]) -> None:
    (features,) = detector.features([picture(1, *shape)])
    assert len(features) == 0
    assert features.codes.shape == (0, 128)
    assert features.size == shape


def test_a_score_below_the_threshold_is_no_keypoint(detector: AlikedDetector, file: Path) -> None:
    """kornia falls back to the mean where there is none."""
    (some,) = detector.features([picture(1)])
    config = AlikedConfig(weights=str(file), keypoints=60, threshold=0.999)
    assert len(some)
    assert len(build(config, "cpu").features([picture(1)])[0]) == 0


def test_the_identity_knows_the_parameters_and_not_the_path(
    detector: AlikedDetector, file: Path, tmp_path: Path
) -> None:
    moved = tmp_path / "elsewhere.pth"
    moved.write_bytes(file.read_bytes())
    same = build(detector.config.model_copy(update={"weights": str(moved)}), "cpu")
    assert same.identity() == detector.identity()
    other = str(random_aliked(tmp_path / "other.pth", 1))
    config = detector.config.model_copy(update={"weights": other})
    assert build(config, "cpu").identity()["weights"] != detector.identity()["weights"]


def test_weights_are_found_in_a_folder_or_given(file: Path, tmp_path: Path) -> None:
    config = AlikedConfig(size=300)
    assert located(config, None) is config
    for given in (file, file.parent):
        assert located(config, given) == AlikedConfig(size=300, weights=str(file))
    for absent in (tmp_path, tmp_path / "x.pth"):
        with pytest.raises(WeightsError, match=r"no such weights file; --weights takes"):
            located(config, absent)


class Harmful:
    """A pickle that would make a file of its own on being read."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


def cut(path: Path, whole: bytes) -> None:
    path.write_bytes(whole[: len(whole) // 2])


def nothing(path: Path, whole: bytes) -> None:
    path.write_bytes(b"")


def harmful(path: Path, whole: bytes) -> None:
    torch.save({"a": Harmful(path.parent / "harm")}, path)


def bare_pickle(path: Path, whole: bytes) -> None:
    path.write_bytes(pickle.dumps(Harmful(path.parent / "harm"), protocol=2))


@pytest.mark.parametrize("damage", [cut, nothing, harmful, bare_pickle])
def test_a_damaged_or_harmful_file_is_one_line(
    damage: Callable[[Path, bytes], None], file: Path, tmp_path: Path
) -> None:
    path = tmp_path / "mine.pth"
    damage(path, file.read_bytes())
    with pytest.raises(WeightsError) as caught:
        build(AlikedConfig(weights=str(path)), "cpu")
    assert str(caught.value).startswith(f"{path} is not a file of PyTorch parameters (")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "harm").exists()


def test_a_file_of_something_else(file: Path, tmp_path: Path) -> None:
    path = tmp_path / "mine.pth"
    whole = torch.load(file, weights_only=True)
    first = next(iter(whole))
    for saved, message in (
        ([1, 2], "does not hold a network's parameters by name"),
        ({k: v for k, v in whole.items() if k != first}, f"lacks {first} (1 in all)"),
        ({**whole, "more": torch.zeros(1)}, "has no place for more"),
        ({**whole, first: torch.zeros(1)}, f"misfits {first}"),
    ):
        torch.save(saved, path)
        with pytest.raises(WeightsError) as caught:
            build(AlikedConfig(weights=str(path)), "cpu")
        assert message in str(caught.value)


def test_weights_must_be_given_and_be_there(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"needs weights: give its file aliked-n16rot\.pth"):
        build(AlikedConfig(), "cpu")
    with pytest.raises(WeightsError, match="absent: no such weights file"):
        build(AlikedConfig(weights=str(tmp_path / "absent")), "cpu")


def test_without_kornia_one_line_says_how_to_have_it(
    monkeypatch: pytest.MonkeyPatch, file: Path
) -> None:
    monkeypatch.setitem(sys.modules, "kornia.feature", None)
    with pytest.raises(ConfigError, match=r"pip install '\.\[learned\]'"):
        build(AlikedConfig(weights=str(file)), "cpu")


@pytest.mark.parametrize(("degrees", "scale"), [(30, 1.0), (0, 0.8), (0, 0.6)])
def test_keypoints_follow(real: AlikedDetector, degrees: float, scale: float) -> None:
    followed = following(lambda one: real.features([one])[0], degrees, scale)
    assert followed.right > 0.85
    assert followed.matches > 60


def test_nothing_of_a_blank_photograph(real: AlikedDetector) -> None:
    assert len(real.features([blank()])[0]) == 0
    assert len(real.features([textured(0)])[0]) > 100
