"""A build in a process of its own that kills itself at a given shard, for tests that go on."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import Any

from pipelines.building.index import build_run, describe_part
from pipelines.config import load_config
from retrieval.descriptors import cache
from retrieval.parts import BuildPart
from retrieval.photographs.table import load_data_set
from retrieval.storage.shards import Shard, ShardStore

WINDOW = 6


def main(config: str, data: Path, run: Path, last: int, part: str, *overrides: str) -> None:
    """Build, or describe a part, until the ``last``-th shard is on disk but not in its manifest."""
    written = 0
    cache.WINDOW = WINDOW  # type: ignore[misc]
    note = ShardStore._note

    def deadly(store: ShardStore, *told: Any) -> None:
        if written == last:
            os.kill(os.getpid(), signal.SIGKILL)
        note(store, *told)

    write = ShardStore.write

    def counted(store: ShardStore, number: int, shard: Shard, *more: Any) -> None:
        nonlocal written
        written += 1
        write(store, number, shard, *more)

    ShardStore._note = deadly  # type: ignore[method-assign]
    ShardStore.write = counted  # type: ignore[method-assign]
    system, photographs = load_config(config, overrides), load_data_set(data)
    if part:
        describe_part(system, photographs, run, BuildPart.parse(part), "cpu")
    else:
        build_run(system, photographs, run, "cpu")


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]), int(sys.argv[4]), *sys.argv[5:])
