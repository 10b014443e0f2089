"""Photographs varied by chance that belongs to them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from retrieval.photographs.augmentation import AugmentationConfig, augmented, draw, varied
from tests.photographs import picture, write_photograph

STILL = AugmentationConfig(least=1.0, aspect=1.0, flip=False, colour=0.0, rotation=0.0)


def test_the_same_place_gives_the_same_bytes_and_another_others() -> None:
    photograph, config = picture(1), AugmentationConfig()
    one, same, later, other = (
        varied(photograph, (48, 64), config, draw(*place))
        for place in ((0, 1, 2), (0, 1, 2), (0, 2, 2), (0, 1, 3))
    )
    assert one.shape == (48, 64, 3)
    assert (one == same).all()
    assert (one != later).any()
    assert (one != other).any()


def test_with_nothing_to_vary_the_photograph_stays() -> None:
    photograph = picture(1)
    assert (varied(photograph, photograph.shape[:2], STILL, draw(0, 0, 0)) == photograph).all()
    # Of another form, the largest part that has it is taken.
    assert varied(photograph, (60, 60), STILL, draw(0, 0, 0)).shape == (60, 60, 3)


def test_photographs_are_never_upside_down_but_half_of_them_mirrored() -> None:
    height, width = np.mgrid[0:64, 0:64].astype(np.uint8)
    photograph = np.stack([height, width, height], axis=2) * 3
    mirrored = 0
    for row in range(60):
        found = varied(photograph, (32, 32), AugmentationConfig(), draw(0, 0, row)).astype(float)
        assert found[-4:, :, 0].mean() > found[:4, :, 0].mean() + 20
        mirrored += found[:, :4, 1].mean() > found[:, -4:, 1].mean()
    assert 15 < mirrored < 45


@pytest.mark.parametrize(
    "changes",
    [{"least": 0.3}, {"aspect": 2.0}, {"flip": True}, {"colour": 0.5}, {"rotation": 20.0}],
)
def test_every_part_of_the_augmentation_does_something(changes: dict[str, float]) -> None:
    photograph = picture(1)
    config = AugmentationConfig.model_validate({**STILL.model_dump(), **changes})
    found = [varied(photograph, (96, 128), config, draw(0, 0, row)) for row in range(8)]
    assert any((one != photograph).any() for one in found)


def test_views_hang_on_the_photograph_and_its_name_alone(tmp_path: Path) -> None:
    one, two = (str(write_photograph(tmp_path / f"{n}.png", picture(1))) for n in "ab")
    first = [opened(128) for opened in augmented(one, "x", 3)]
    more = [opened(128) for opened in augmented(two, "x", 5)]
    other = [opened(128) for opened in augmented(one, "y", 3)]
    whole = picture(1)
    for i in range(3):
        assert first[i].shape == whole.shape
        assert (first[i] == more[i]).all()
        assert (first[i] != other[i]).any()
        assert (first[i] != first[i - 1]).any()
    assert max(augmented(one, "x", 1)[0](32).shape) == 32
