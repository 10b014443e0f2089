"""What a label says."""

from __future__ import annotations

import pytest

from retrieval.errors import TableError
from retrieval.photographs.labels import landmark_label, looks


@pytest.mark.parametrize(
    "text",
    ["", "  ", "none", "None", "NONE", " none ", "no-landmark", "No_Landmark", "no landmark"],
)
def test_none(text: str) -> None:
    assert landmark_label(text) is None


@pytest.mark.parametrize(
    "text",
    "nan NaN <NA> NA n/a N.A. null NULL (none) - -- – ? [] -1 -1.0 unknown non-landmark".split(),
)
def test_what_is_plainly_meant_as_none_is_refused(text: str) -> None:
    with pytest.raises(TableError, match="seems to say that there is none: write none"):
        landmark_label(text)


@pytest.mark.parametrize(
    "text",
    ["0", "17", "1", "Old Bridge", "Nan Lian Garden", "Nullarbor", "L-1", "北京", "None-such"],
)
def test_a_landmark_stays_as_it_is(text: str) -> None:
    assert landmark_label(text) == text


@pytest.mark.parametrize("text", [" Bridge", "Bridge ", "Bridge\u00a0"])
def test_a_blank_around_a_landmark_is_refused(text: str) -> None:
    with pytest.raises(TableError, match="a blank stands before or behind"):
        landmark_label(text)


def test_two_compositions_are_one_landmark() -> None:
    assert landmark_label("Cafe\u0301") == landmark_label("Caf\u00e9") == "Caf\u00e9"


@pytest.mark.parametrize("text", ["Cafe\u0301", "Caf\u00e9 ", "Ca\u200bf\u00e9"])
def test_what_looks_the_same(text: str) -> None:
    assert looks(text) == "Caf\u00e9"
