"""Galleries that do not fit together."""

from __future__ import annotations

import pytest

from retrieval.index.gallery import Gallery
from tests.retrieval.classifiers.galleries import clusters


def test_a_gallery_of_parts_that_do_not_belong_together_is_refused() -> None:
    good = clusters(3, 4, 5, 0.1)
    parts = (good.descriptors, good.codes, good.landmarks, good.bank, good.searcher)
    with pytest.raises(ValueError, match="not one gallery"):
        Gallery(parts[0], parts[1][:-1], *parts[2:], good.bank_searcher)
    with pytest.raises(ValueError, match="codes"):
        Gallery(parts[0], parts[1], ["one", "two"], *parts[3:], good.bank_searcher)
    with pytest.raises(ValueError, match="bank"):
        Gallery(*parts, bank_searcher=good.searcher)
    with pytest.raises(ValueError, match="bank"):
        Gallery(*parts)
