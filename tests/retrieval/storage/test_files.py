"""Files of a run, written and linked."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from retrieval.errors import RunError
from retrieval.storage.files import link


@pytest.mark.parametrize("links", [True, False])
def test_a_file_is_linked_or_else_copied_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, links: bool
) -> None:
    def refused(*_: Path) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    synced: list[int] = []
    monkeypatch.setattr(os, "fsync", synced.append)
    if not links:
        monkeypatch.setattr(os, "link", refused)
    source, target = tmp_path / "source", tmp_path / "target"
    with pytest.raises(RunError, match="source is missing"):
        link(source, target)
    source.write_bytes(bytes(range(256)) * 1000)
    link(source, target)
    assert target.read_bytes() == source.read_bytes()
    assert target.samefile(source) == links
    assert len(synced) == (not links)
    assert sorted(tmp_path.iterdir()) == [source, target]
