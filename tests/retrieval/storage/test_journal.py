"""One process at a time writes what restarts."""

from __future__ import annotations

import errno
from pathlib import Path

import filelock
import pytest

from retrieval.errors import RunError, WriteError
from retrieval.storage.journal import lock


def test_an_open_file_is_locked_until_it_is_closed(tmp_path: Path) -> None:
    path = tmp_path / "part"
    path.write_text("kept")
    with path.open("a") as first, path.open("a") as second:
        lock(first, "out.csv")
        with pytest.raises(RunError, match=r"^out\.csv is being written by another command: wait"):
            lock(second, "out.csv")
    with path.open("a") as third:
        lock(third, "out.csv")
    assert path.read_text() == "kept"
    assert list(tmp_path.iterdir()) == [path]


def test_a_disk_without_locks_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(handle: int, blocking: bool) -> bool:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(filelock, "lock_descriptor", refuse)
    with (tmp_path / "part").open("a") as file, pytest.raises(WriteError) as caught:
        lock(file, "out.csv")
    assert str(caught.value).startswith("out.csv cannot be locked (No locks available): write to")
