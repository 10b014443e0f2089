"""What a notebook may hand over as photographs, and what is refused by name."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from retrieval.errors import DecodeError, FetchError
from retrieval.photographs.decoding import decode
from retrieval.photographs.given import source_windows
from tests.photographs import encoded, picture

ARRAY = picture(1)


def taken(given: Any, size: int = 2) -> tuple[list[Any], list[str]]:
    ids: list[str] = []
    windows = list(source_windows(given, size, ids))
    assert all(len(window) <= size for window in windows)
    return [one for window in windows for one in window], ids


@pytest.mark.parametrize("given", ["a.jpg", Path("a.jpg"), ["a.jpg"], ("a.jpg",), {"a.jpg"}])
def test_a_path_is_one_photograph(given: Any) -> None:
    assert taken(given) == (["a.jpg"], ["a.jpg"])


def test_an_array_is_one_and_a_block_of_arrays_several() -> None:
    sources, ids = taken(ARRAY)
    assert ids == ["0"]
    assert sources[0] is ARRAY
    assert taken(np.stack([ARRAY] * 3))[1] == ["0", "1", "2"]


def test_any_mixture(tmp_path: Path) -> None:
    def mixed() -> Iterator[Any]:
        yield from ("a.jpg", ARRAY, Image.fromarray(ARRAY), Path("b.jpg"))

    for given in (list(mixed()), mixed(), pd.Series(list(mixed()), dtype=object)):
        sources, ids = taken(given)
        assert ids == ["a.jpg", "1", "2", "b.jpg"]
        assert (sources[0], sources[3]) == ("a.jpg", "b.jpg")
        np.testing.assert_array_equal(sources[2](10_000), ARRAY)
    assert taken(pd.Series(["a.jpg", "b.jpg"]))[1] == ["a.jpg", "b.jpg"]
    assert taken(np.array(["a.jpg", "b.jpg"]))[1] == ["a.jpg", "b.jpg"]
    assert taken([]) == ([], [])


def test_an_image_is_as_its_file_is() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    data = encoded(ARRAY, "JPEG", exif=exif.tobytes())
    (source,), _ = taken(Image.open(io.BytesIO(data)))
    np.testing.assert_array_equal(source(10_000), decode(data))
    read = Image.open(io.BytesIO(data))
    read.load()
    np.testing.assert_array_equal(taken(read)[0][0](10_000), decode(data))
    assert max(source(32).shape) == 32
    clear = Image.new("RGBA", (8, 8), (0, 0, 0, 0))
    assert (taken(clear)[0][0](99) == 255).all()


@pytest.mark.parametrize("form", ["JPEG", "PNG"])
def test_an_image_is_whole_or_refused_as_its_file_is(form: str) -> None:
    data = encoded(ARRAY, form)
    half = data[: len(data) // 2] + (b"\xff\xd9" if form == "JPEG" else b"")
    with pytest.raises(DecodeError):
        decode(half)
    with pytest.raises(DecodeError):
        taken(Image.open(io.BytesIO(half)))[0][0](10_000)


def test_what_cannot_be_read_fails_when_it_is_read() -> None:
    closed = Image.open(io.BytesIO(encoded(ARRAY, "JPEG")))
    closed.close()
    with pytest.raises(DecodeError, match="an image that cannot be read"):
        taken(closed)[0][0](99)
    with pytest.raises(FetchError, match="a URL: classify takes files"):
        taken("https://a.example/b.jpg")[0][0](99)


@pytest.mark.parametrize(
    ("given", "what"),
    [
        (None, "a NoneType"),
        (7, "an? int"),
        (b"a.jpg", "a bytes"),
        ({"a.jpg": 1}, "a dict"),
        (pd.DataFrame({"path": ["a.jpg"]}), "a pandas.DataFrame"),
        (io.StringIO("a.jpg\n"), "a _io.StringIO"),
        (ARRAY[:, :, 0], "uint8 of shape"),
        (ARRAY.astype(np.float32), "float32 of shape"),
    ],
)
def test_anything_else_is_a_type_error(given: Any, what: str) -> None:
    taken_are = r"give a path, a Pillow image, an \(h, w, 3\) uint8 RGB array, or a list"
    with pytest.raises(TypeError, match=rf"^(the )?photograph.* is {what}.*: {taken_are}"):
        taken(given)


@pytest.mark.parametrize("wrong", [None, 7, b"a.jpg", ["a.jpg"], ARRAY[:, :, :2], Path])
def test_a_list_is_refused_before_its_first_photograph(wrong: Any) -> None:
    with pytest.raises(TypeError, match=r"^photograph 2 is "):
        source_windows(["a.jpg", "b.jpg", wrong], 1, [])
