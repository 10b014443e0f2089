"""Work that is begun before it is needed."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from retrieval.streams import ahead


@pytest.mark.parametrize("many", [0, 1, 3, 9])
def test_so_many_are_begun_beyond_the_one_that_is_handed_over(many: int) -> None:
    begun: list[int] = []

    def items() -> Iterator[int]:
        for i in range(6):
            begun.append(i)
            yield i

    for place, item in enumerate(ahead(items(), many)):
        assert item == place
        assert len(begun) == min(place + 1 + many, 6)
    assert len(begun) == 6
