"""Downloads of photographs and of archives, from loopback servers, killed and taken up again."""

from __future__ import annotations

import hashlib
import io
import json
import os
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pipelines.data import downloads
from pipelines.data.downloads import (
    FetchSummary,
    Gldv2Summary,
    download_gldv2,
    fetch_photographs,
    parse_shards,
)
from retrieval.errors import ConfigError, DownloadError, RunError, TableError
from retrieval.photographs.fetch_config import FetchConfig
from retrieval.photographs.table import read_table
from tests.crashes import killed_at
from tests.photographs import encoded, picture
from tests.pipelines.fakes import QUICK, photographs
from tests.servers import BadServer, bad_server

PHOTOGRAPHS = photographs(12)
ROOT = Path(__file__).parents[3]


@pytest.fixture
def server() -> Iterator[BadServer]:
    with bad_server(PHOTOGRAPHS) as server:
        yield server


def tree(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def kill_when(ready: Callable[[], bool], code: str) -> None:
    """Start Python with ``code`` and kill it as soon as ``ready``."""
    process = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT)
    while not ready() and process.poll() is None:
        time.sleep(0.002)
    os.kill(process.pid, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL, "it ended before it could be killed"


class TestFetch:
    def write(self, folder: Path, server: BadServer, kind: str = "ok") -> Path:
        path = folder / "train.csv"
        rows = [f"{i:016x},{server.url}/{kind}/{i}.jpg,{i % 3}" for i in range(12)]
        path.write_text("id,url,landmark_id\n" + "\n".join(rows) + "\n")
        return path

    def fetch(self, table: Path, out: Path, **options: Any) -> FetchSummary:
        return fetch_photographs(table, out, **{"fetch": QUICK, **options})

    def test_photographs_lie_where_tables_look_for_them(
        self, server: BadServer, tmp_path: Path
    ) -> None:
        table = self.write(tmp_path, server)
        summary = self.fetch(table, tmp_path)
        assert summary.counts == {"ok": 12}
        read = read_table(table)
        assert [Path(s).read_bytes() for s in read["source"]] == list(PHOTOGRAPHS.values())
        assert (tmp_path / "fetched-train.csv").read_text().splitlines()[:2] == [
            "id,status,reason",
            f"{0:016x},ok,",
        ]
        assert not (tmp_path / "photos/.incoming").exists()

    def test_failures_are_rows_with_reasons(self, server: BadServer, tmp_path: Path) -> None:
        table = tmp_path / "t.csv"
        urls = ["ok/1.jpg", "status/404", "ok/page", "ok/half", "ok/2.jpg"]
        whole = encoded(picture(0, 900, 1200))  # many times as large as it is checked at
        server.files |= {"page": b"<html>", "half": whole[: len(whole) * 49 // 50]}
        ids = ["aaa1", "aaa2", "aaa3", "aaa4", "../../x"]
        rows = [f"{i},{server.url}/{url}\n" for i, url in zip(ids, urls, strict=True)]
        table.write_text("id,url\n" + "".join(rows) + "aaa5,\n")
        summary = self.fetch(table, tmp_path / "out")
        lines = summary.table.read_text().splitlines()[1:]
        assert [line.split(",")[:2] for line in lines] == [
            ["aaa1", "ok"],
            ["aaa2", "fetch_failed"],
            ["aaa3", "decode_failed"],
            ["aaa4", "decode_failed"],
            ["../../x", "fetch_failed"],
            ["aaa5", "fetch_failed"],
        ]
        assert sorted(tree(tmp_path / "out")) == [
            "fetched-t.csv",
            "fetched-t.csv.state.json",
            "photos/a/a/a/aaa1.jpg",
        ]
        assert str(summary).startswith("1 photographs in")
        assert "5 failed" in str(summary)

    def test_what_is_there_is_not_fetched_again(self, server: BadServer, tmp_path: Path) -> None:
        table = self.write(tmp_path, server)
        missing = server.files.pop("3.jpg")
        assert self.fetch(table, tmp_path).failed == 1
        asked = len(server.requests)
        assert self.fetch(table, tmp_path).nothing_to_do
        assert len(server.requests) == asked
        server.files["3.jpg"] = missing
        summary = self.fetch(table, tmp_path, retry_failed=True)
        assert (summary.failed, server.requests[asked:]) == (0, ["/ok/3.jpg"])
        self.fetch(table, tmp_path, restart=True)
        assert len(server.requests) == asked + 1

    def test_another_table_is_refused(self, server: BadServer, tmp_path: Path) -> None:
        table = self.write(tmp_path, server)
        self.fetch(table, tmp_path)
        table.write_text(table.read_text() + f"abcd,{server.url}/ok/1.jpg,1\n")
        with pytest.raises(RunError, match="another input"):
            self.fetch(table, tmp_path)

    @pytest.mark.parametrize("header", ["id,path", "url", "id;path"])
    def test_columns_are_needed(self, tmp_path: Path, header: str) -> None:
        (tmp_path / "t.csv").write_text(header + "\n")
        with pytest.raises(TableError, match="no column"):
            self.fetch(tmp_path / "t.csv", tmp_path)
        with pytest.raises(TableError, match="no such file"):
            self.fetch(tmp_path / "missing.csv", tmp_path)

    @pytest.mark.slow
    def test_kill_and_again_gives_the_same_files(
        self, server: BadServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        table = self.write(tmp_path, server, "slow/0.1")
        self.fetch(table, tmp_path / "whole")
        server.requests.clear()
        out = tmp_path / "out"
        code = (
            "import pathlib, pipelines.data.downloads as d; d.FETCH_ROWS = 4;"
            " from tests.pipelines.fakes import QUICK;"
            f" d.fetch_photographs(pathlib.Path({str(table)!r}), pathlib.Path({str(out)!r}),"
            " fetch=QUICK.model_copy(update={'per_host': 2}))"
        )
        kill_when(lambda: any((out / "photos").glob("?/?/?/*.jpg")), code)
        assert not (out / "fetched-train.csv").exists()
        monkeypatch.setattr(downloads, "FETCH_ROWS", 4)
        server.requests.clear()
        self.fetch(table, out)
        assert len(server.requests) < 12
        assert tree(out) == tree(tmp_path / "whole")


def archive(names: list[str], size: int = 2000, extra: tuple[tarfile.TarInfo, ...] = ()) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for info in extra:
            tar.addfile(info)
        for name in names:
            member = tarfile.TarInfo(name)
            member.size = size
            tar.addfile(member, io.BytesIO(name.encode().ljust(size, b".")))
    return buffer.getvalue()


def photograph_names(shard: int) -> list[str]:
    ids = [f"{hashlib.sha256(f'{shard} {i}'.encode()).hexdigest()[:16]}" for i in range(10)]
    return [f"{i[0]}/{i[1]}/{i[2]}/{i}.jpg" for i in ids]


def publish(server: BadServer, split: str, archives: list[bytes]) -> None:
    for shard, content in enumerate(archives):
        server.files[f"{split}/images_{shard:03d}.tar"] = content
        md5 = hashlib.md5(content).hexdigest()
        text = f"{md5}  images_{shard:03d}.tar\n"
        server.files[f"md5sum/{split}/md5.images_{shard:03d}.txt"] = text.encode()
    for name in downloads.GLDV2_TABLES[split]:
        server.files[f"metadata/{name}"] = f"{name}\n".encode()


class TestGldv2:
    def bring(
        self, server: BadServer, out: Path, kind: str = "ok", shards: str = "0,1",
        **options: Any,
    ) -> Gldv2Summary:  # fmt: skip
        settings = {"base_url": f"{server.url}/{kind}/", "fetch": QUICK, **options}
        return download_gldv2("index", shards, out, **settings)

    def test_photographs_and_tables(self, server: BadServer, tmp_path: Path) -> None:
        publish(server, "index", [archive(photograph_names(s)) for s in range(2)])
        summary = self.bring(server, tmp_path)
        assert (summary.shards, summary.photographs, summary.already) == (2, 20, 0)
        photographs = {f"index/{name}" for s in range(2) for name in photograph_names(s)}
        tables = {*downloads.GLDV2_TABLES["index"], "gldv2-index.json"}
        assert set(tree(tmp_path)) == photographs | tables
        assert json.loads((tmp_path / "gldv2-index.json").read_text()) == {"000": 10, "001": 10}

        asked = len(server.requests)
        again = self.bring(server, tmp_path)
        assert str(again).startswith("20 photographs of 2 archives, 2 of them there before")
        assert len(server.requests) == asked, "nothing is asked for again"

    def test_further_archives_join(self, server: BadServer, tmp_path: Path) -> None:
        publish(server, "index", [archive(photograph_names(s)) for s in range(3)])
        self.bring(server, tmp_path, shards="1", keep_archives=True)
        assert (tmp_path / "archives/index/images_001.tar").exists()
        assert self.bring(server, tmp_path, shards="0-2").already == 1
        assert server.visits["/ok/index/images_001.tar"] == 1
        assert not (tmp_path / "archives").exists()

    @pytest.mark.parametrize("damage", ["cut", "cut header", "header", "first", "text", "octal"])
    def test_a_damaged_archive_with_the_right_sum_is_one_line(
        self, server: BadServer, tmp_path: Path, damage: str
    ) -> None:
        whole = archive(photograph_names(0))
        entry = 512 + 2048  # a header, and 2,000 bytes in whole blocks
        content = {
            "cut": whole[: 3 * entry + 700],
            "cut header": whole[: 3 * entry + 100],
            "header": whole[: 3 * entry] + b"x" * 512 + whole[3 * entry + 512 :],
            "first": b"x" * 512 + whole[512:],
            "text": b"Not found",
            "octal": whole[:124] + b"zzzzzzzzzzz" + whole[135:],
        }[damage]
        publish(server, "index", [content])
        with pytest.raises(DownloadError, match=r"images_000\.tar is a damaged archive .*base-url"):
            self.bring(server, tmp_path, shards="0")
        assert not (tmp_path / "gldv2-index.json").exists()

    def test_only_photographs_are_unpacked(self, server: BadServer, tmp_path: Path) -> None:
        good = photograph_names(0)[0]
        link, hard, folder = (tarfile.TarInfo(photograph_names(0)[i]) for i in (1, 2, 3))
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/hostname"
        hard.type, hard.linkname = tarfile.LNKTYPE, "/etc/hostname"
        folder.type = tarfile.DIRTYPE
        bad = [
            "/tmp/0/0/0/0000000000000000.jpg",
            "../0/0/0/0000000000000000.jpg",
            "0/0/0/../../../../x.jpg",
            "0/0/1/0000000000000000.jpg",
            "0/0/0/0000000000000000.sh",
            "0000000000000000.jpg",
        ]
        content = archive([*bad, good, f"./{photograph_names(0)[4]}"], extra=(link, hard, folder))
        publish(server, "index", [content])
        out = tmp_path / "deep" / "out"
        assert self.bring(server, out, shards="0").photographs == 2
        assert {name for name in tree(out) if name.startswith("index/")} == {
            f"index/{good}",
            f"index/{photograph_names(0)[4]}",
        }
        assert [path.name for path in tmp_path.iterdir()] == ["deep"]
        assert [path.name for path in (tmp_path / "deep").iterdir()] == ["out"]

    def test_a_wrong_sum_is_downloaded_again_then_given_up(
        self, server: BadServer, tmp_path: Path
    ) -> None:
        publish(server, "index", [archive(photograph_names(0))])
        server.files["index/images_000.tar"] += b"."
        with pytest.raises(DownloadError, match="does not match its md5 sum, 3 times"):
            self.bring(server, tmp_path, shards="0")
        assert server.visits["/ok/index/images_000.tar"] == 3
        assert not (tmp_path / "index").exists()

    def test_a_part_of_something_else_is_downloaded_again(
        self, server: BadServer, tmp_path: Path
    ) -> None:
        publish(server, "index", [archive(photograph_names(0))])
        part = tmp_path / "archives/index/images_000.tar.part"
        part.parent.mkdir(parents=True)
        part.write_bytes(b"other")
        assert self.bring(server, tmp_path, shards="0").photographs == 10

    def test_broken_connections_go_on(self, server: BadServer, tmp_path: Path) -> None:
        publish(server, "index", [archive(photograph_names(0), size=300_000)])
        summary = self.bring(server, tmp_path, kind="halves", shards="0")
        assert summary.photographs == 10
        assert server.visits["/halves/index/images_000.tar"] >= 3

    @pytest.mark.parametrize(
        "missing", ["index/images_000.tar", "md5sum/index/md5.images_000.txt", "metadata/index.csv"]
    )
    def test_what_is_missing_is_named(
        self, server: BadServer, tmp_path: Path, missing: str
    ) -> None:
        publish(server, "index", [archive(photograph_names(0))])
        del server.files[missing]
        with pytest.raises(DownloadError, match=f"{missing}: HTTP 404"):
            self.bring(server, tmp_path, shards="0")

    def test_a_sum_must_be_one(self, server: BadServer, tmp_path: Path) -> None:
        publish(server, "index", [archive(photograph_names(0))])
        server.files["md5sum/index/md5.images_000.txt"] = b"<html>"
        with pytest.raises(DownloadError, match="no md5 sum in it"):
            self.bring(server, tmp_path, shards="0")

    @pytest.mark.slow
    def test_kill_in_the_download(self, server: BadServer, tmp_path: Path) -> None:
        contents = [archive(photograph_names(s), size=400_000) for s in range(2)]
        publish(server, "index", contents)
        self.bring(server, tmp_path / "whole")
        out = tmp_path / "out"
        parts = [out / f"archives/index/images_00{s}.tar.part" for s in range(2)]
        code = (
            "import pathlib; from pipelines.data.downloads import *;"
            " from tests.pipelines.fakes import QUICK;"
            f" download_gldv2('index', '0-1', pathlib.Path({str(out)!r}),"
            f" base_url='{server.url}/trickle', fetch=QUICK)"
        )
        kill_when(lambda: all(p.exists() and p.stat().st_size > 10**6 for p in parts), code)
        server.headers.clear()
        self.bring(server, out)
        resumed = [headers["Range"] for headers in server.headers if "Range" in headers]
        assert len(resumed) == 2
        assert tree(out) == tree(tmp_path / "whole")

    def test_kill_while_unpacking(self, server: BadServer, tmp_path: Path) -> None:
        content = archive(photograph_names(0))
        publish(server, "index", [content])
        self.bring(server, tmp_path / "whole", shards="0")
        for call in (1, 5, 10):
            out = tmp_path / str(call)
            path = out / "archives/index/images_000.tar"
            path.parent.mkdir(parents=True)
            path.write_bytes(content)
            place = downloads._Gldv2("index", out, "", QUICK, keep_archives=False)
            md5 = hashlib.md5(content).hexdigest()
            assert killed_at(call, False, lambda: place.bring(None, 0, md5))  # type: ignore[arg-type]  # noqa: B023
            assert len(list(out.rglob("*.part"))) == 1
            self.bring(server, out, shards="0")
            assert tree(out) == tree(tmp_path / "whole")

    def test_private_addresses_are_refused_by_default(
        self, server: BadServer, tmp_path: Path
    ) -> None:
        publish(server, "index", [archive(photograph_names(0))])
        with pytest.raises(DownloadError, match="not a public one"):
            self.bring(server, tmp_path, shards="0", fetch=FetchConfig())

    def test_damaged_notes_are_said_so(self, server: BadServer, tmp_path: Path) -> None:
        (tmp_path / "gldv2-index.json").write_text("[")
        with pytest.raises(RunError, match="is damaged: delete it"):
            self.bring(server, tmp_path)


def test_shards() -> None:
    assert parse_shards("0-3", "index") == [0, 1, 2, 3]
    assert parse_shards("7, 2-3,3", "test") == [2, 3, 7]
    assert len(parse_shards("all", "train")) == 500


@pytest.mark.parametrize("text", ["", "a", "3-1", "99-100", "-1", "1-2-3"])
def test_shards_that_are_not(text: str) -> None:
    with pytest.raises(ConfigError, match="--shards"):
        parse_shards(text, "index")
    with pytest.raises(ConfigError, match="choose among train, index, test"):
        parse_shards("0", "trian")
