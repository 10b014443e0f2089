"""Classify against loopback servers, with a system that notices when a batch changes."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from pipelines.answering.classify import (
    ClassifySummary,
    Form,
    chunks_ahead,
    classify_list,
)
from pipelines.lists.formats import FORMATS, read_records
from pipelines.lists.inputs import listed, opened
from retrieval.errors import RunError, TableError
from retrieval.photographs.decoding import decode
from retrieval.photographs.fetch_config import FetchConfig
from retrieval.predictions import prediction_columns
from tests.pipelines.fakes import QUICK, FakeSystem, classify, photographs
from tests.servers import BadServer, bad_server

PHOTOGRAPHS = photographs(20)
ROOT = Path(__file__).parents[3]


@pytest.fixture
def server() -> Iterator[BadServer]:
    with bad_server({**PHOTOGRAPHS, "text.jpg": b"<html>"}) as server:
        yield server


def write_list(path: Path, urls: list[str]) -> Path:
    path.write_text("id,url\n" + "".join(f"q{i},{url}\n" for i, url in enumerate(urls)))
    return path


def mixed(server: BadServer, rows: int) -> list[str]:
    """Good photographs, slow ones, dead links and pages, in a row."""
    paths = ["ok/{}.jpg", "ok/{}.jpg", "status/404?{}", "slow/0.02/{}.jpg", "ok/text.jpg?{}"]
    return [f"{server.url}/{paths[i % len(paths)].format(i % 20)}" for i in range(rows)]


def read(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_every_row_once_in_order(server: BadServer, tmp_path: Path) -> None:
    listed = write_list(tmp_path / "list.csv", mixed(server, 45))
    told: list[tuple[int, int]] = []
    summary = classify(
        listed, tmp_path / "out.csv", progress=lambda done, failed: told.append((done, failed))
    )
    rows = read(tmp_path / "out.csv")
    assert tuple(rows[0]) == prediction_columns()
    assert [row["id"] for row in rows] == [f"q{i}" for i in range(45)]
    statuses = ["ok", "ok", "fetch_failed", "ok", "decode_failed"]
    assert [row["status"] for row in rows] == statuses * 9
    assert rows[2]["reason"] == "HTTP 404"
    assert rows[4]["reason"] == "not a photograph (a web page or text)"
    assert not any(rows[2][name] for name in ("landmark", "name", "probability"))
    assert summary.counts == {"ok": 27, "fetch_failed": 9, "decode_failed": 9}
    assert (summary.rows, summary.failed, summary.nothing_to_do) == (45, 18, False)
    assert summary.answered == sum(1 for row in rows if row["landmark"]) > 0
    assert np.sum(told, axis=0).tolist() == [45, 18]


def test_answers_are_those_of_the_system(server: BadServer, tmp_path: Path) -> None:
    listed = write_list(tmp_path / "list.csv", [f"{server.url}/ok/{i}.jpg" for i in range(20)])
    classify(listed, tmp_path / "out.csv", chunk_rows=20)
    system = FakeSystem()
    decoded = [decode(PHOTOGRAPHS[f"{i}.jpg"], 32) for i in range(20)]
    expected = system.predictions([""] * 20, system.query_describer.describe(decoded))
    rows = read(tmp_path / "out.csv")
    assert [row["landmark"] for row in rows] == expected["landmark"].tolist()
    assert np.float32([row["probability"] for row in rows]).tolist() == pytest.approx(
        expected["probability"].tolist(), rel=1e-5
    )


def test_the_order_of_arrival_changes_nothing(server: BadServer, tmp_path: Path) -> None:
    outputs = []
    for name, slow in (("a", 0), ("b", 1)):
        urls = [f"{server.url}/slow/{0.03 if i % 2 == slow else 0}/{i}.jpg" for i in range(20)]
        listed = write_list(tmp_path / f"{name}.csv", urls)
        classify(listed, tmp_path / f"{name}.out.csv")
        outputs.append((tmp_path / f"{name}.out.csv").read_bytes())
    assert outputs[0] == outputs[1]


def test_paths_and_bare_lines_and_bad_rows(server: BadServer, tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(PHOTOGRAPHS["3.jpg"])
    bare = tmp_path / "bare.txt"
    bare.write_text(f"a.jpg\nmissing.jpg\n{server.url}/ok/3.jpg\nftp://a.example/b.jpg\n")
    classify(bare, tmp_path / "bare.csv", chunk_rows=1)
    rows = read(tmp_path / "bare.csv")
    assert [row["id"] for row in rows] == bare.read_text().split()
    assert [row["status"] for row in rows] == ["ok", "decode_failed", "ok", "fetch_failed"]
    assert rows[0]["probability"] == rows[2]["probability"]
    assert rows[1]["reason"] == "no such file"

    columns = tmp_path / "columns.csv"
    columns.write_text(f"id,url\n1,\n1,{server.url}/ok/1.jpg\n2,x,y\n3,/etc/hostname\n")
    classify(columns, tmp_path / "columns.out.csv")
    rows = read(tmp_path / "columns.out.csv")
    assert [row["id"] for row in rows] == ["1", "1", "2", "3"]
    assert [row["reason"] for row in rows] == [
        "bad row: no url",
        "",
        "bad row: 3 cells under 2 columns",
        "not a photograph of a known format",
    ]


def test_private_addresses_are_refused_by_default(server: BadServer, tmp_path: Path) -> None:
    listed = write_list(tmp_path / "list.csv", [f"{server.url}/ok/1.jpg"])
    classify(listed, tmp_path / "out.csv", fetch=FetchConfig())
    (row,) = read(tmp_path / "out.csv")
    assert row["reason"].startswith("the address is not a public one")
    assert not server.requests
    classify(listed, tmp_path / "out.csv", fetch=QUICK, retry_failed=True)
    (row,) = read(tmp_path / "out.csv")
    assert row["status"] == "ok"


def test_pixels_are_capped(server: BadServer, tmp_path: Path) -> None:
    listed = write_list(tmp_path / "list.csv", [f"{server.url}/ok/1.jpg"])
    summary = classify(listed, tmp_path / "out.csv", max_pixels=100)
    assert summary.counts == {"decode_failed": 1}


def test_finished_means_nothing_to_do(server: BadServer, tmp_path: Path) -> None:
    listed = write_list(tmp_path / "list.csv", mixed(server, 20))
    first = classify(listed, tmp_path / "out.csv")
    asked = len(server.requests)
    second = classify(listed, tmp_path / "out.csv")
    assert second.nothing_to_do
    assert (second.rows, second.counts, second.answered) == (
        first.rows,
        first.counts,
        first.answered,
    )
    assert len(server.requests) == asked


def test_another_list_or_system_is_refused(server: BadServer, tmp_path: Path) -> None:
    listed = write_list(tmp_path / "list.csv", [f"{server.url}/ok/1.jpg"])
    out = tmp_path / "out.csv"
    classify(listed, out)
    with pytest.raises(RunError, match="another system"):
        classify_list(FakeSystem("other"), listed, out, fetch=QUICK, chunk_rows=8)
    write_list(listed, [f"{server.url}/ok/2.jpg"])
    with pytest.raises(RunError, match="another input"):
        classify(listed, out, retry_failed=True)
    classify(listed, out, restart=True)
    assert len(server.requests) == 2


def test_a_bad_list_leaves_nothing_behind(tmp_path: Path) -> None:
    (tmp_path / "list.csv").write_text("id,landmark\n1,2\n")
    for name in ("list.csv", "missing.csv"):
        with pytest.raises(TableError):
            classify(tmp_path / name, tmp_path / "out.csv")
    assert [path.name for path in tmp_path.iterdir()] == ["list.csv"]


def test_retry_failed_takes_failed_rows_alone(server: BadServer, tmp_path: Path) -> None:
    server.files.pop("5.jpg")
    urls = [f"{server.url}/ok/{i}.jpg" for i in range(20)]
    listed = write_list(tmp_path / "list.csv", urls)
    assert classify(listed, tmp_path / "out.csv").failed == 1
    before = read(tmp_path / "out.csv")
    server.files["5.jpg"] = PHOTOGRAPHS["5.jpg"]
    asked = len(server.requests)
    summary = classify(listed, tmp_path / "out.csv", retry_failed=True)
    after = read(tmp_path / "out.csv")
    assert summary.failed == 0
    assert server.requests[asked:] == ["/ok/5.jpg"]
    assert after[5]["status"] == "ok"
    assert [row for row in after if row["id"] != "q5"] == [r for r in before if r["id"] != "q5"]


def start(listed: Path, out: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "tests.pipelines.fakes", str(listed), str(out)]
    return subprocess.Popen(command, cwd=ROOT)


def rows_done(out: Path) -> int:
    state = out.with_name(out.name + ".state.json")
    return int(json.loads(state.read_text())["rows"]) if state.exists() else 0


@pytest.mark.slow
def test_kill_and_again_gives_the_same_bytes(server: BadServer, tmp_path: Path) -> None:
    listed = write_list(tmp_path / "list.csv", mixed(server, 150))
    classify(listed, tmp_path / "whole.csv")
    kills = 0
    out = tmp_path / "out.csv"
    for wanted in (8, 64):  # rows, before the kill
        process = start(listed, out)
        while rows_done(out) < wanted and process.poll() is None:
            time.sleep(0.002)
        os.kill(process.pid, signal.SIGKILL)
        kills += process.wait() == -signal.SIGKILL
        assert not out.exists()
    assert kills == 2
    server.requests.clear()
    summary = classify(listed, out)
    assert 64 <= summary.resumed < 150
    assert 0 < len(server.requests) <= 150 - 64
    for suffix in ("", ".state.json"):
        ours, whole = (tmp_path / f"{name}.csv{suffix}" for name in ("out", "whole"))
        assert ours.read_bytes() == whole.read_bytes()


def test_leaving_in_the_middle_stops_at_once(server: BadServer, tmp_path: Path) -> None:
    """An error in the system (or Ctrl-C) does not wait for what is being fetched."""

    class Broken(FakeSystem):
        def predictions(self, *args: object) -> None:  # type: ignore[override]
            while not server.now:
                time.sleep(0.01)
            raise KeyboardInterrupt

    urls = [f"{server.url}/ok/{i}.jpg" for i in range(8)] + [f"{server.url}/slow/9/1.jpg"] * 40
    listed = write_list(tmp_path / "list.csv", urls)
    with pytest.raises(KeyboardInterrupt):
        classify_list(Broken(), listed, tmp_path / "out.csv", fetch=QUICK, chunk_rows=8)
    assert server.now > 0, "it did not wait for the slow ones"


def test_look_ahead_is_bounded_by_memory() -> None:
    assert chunks_ahead(2**30, 256, 448) == 5
    assert chunks_ahead(2**20, 256, 448) == 1
    assert chunks_ahead(2**40, 256, 448) == 7


@pytest.mark.slow
def test_memory_does_not_grow_with_the_rows(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(PHOTOGRAPHS["3.jpg"])

    listed = tmp_path / "list.txt"
    listed.write_text("a.jpg\n" * 2000)
    tracemalloc.start()
    try:
        classify(listed, tmp_path / "out.csv", chunk_rows=16)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    # Pixels alone are 5 MB in all, and 0.4 MB in the 9 chunks that may be under way.
    assert peak < 2_000_000


def classify_as(form: Form, csv: Path, out: Path, **options: object) -> ClassifySummary:
    settings = {"fetch": QUICK, "chunk_rows": 8, **options}
    return classify_list(FakeSystem(), listed(csv), out, form=form, **settings)  # type: ignore[arg-type]


@pytest.mark.parametrize("form", FORMATS)
def test_every_format_says_the_same(server: BadServer, tmp_path: Path, form: str) -> None:
    listing = write_list(tmp_path / "list.csv", mixed(server, 20))
    classify_as(Form(top=4), listing, tmp_path / "out.csv")
    classify_as(Form(form, top=4), listing, tmp_path / f"other.{form}")
    found = read_records(tmp_path / f"other.{form}")
    expected = read_records(tmp_path / "out.csv")
    assert found[0] == expected[0] == list(prediction_columns(top=4))
    assert [one for _, one in found[1]] == [one for _, one in expected[1]]


def test_candidates_and_the_nearest_are_told(server: BadServer, tmp_path: Path) -> None:
    listing = write_list(tmp_path / "list.csv", mixed(server, 10))
    classify_as(Form(top=4), listing, tmp_path / "out.csv")
    rows = read(tmp_path / "out.csv")
    ok = [row for row in rows if row["status"] == "ok"]
    assert all(row["candidate"] == row["candidate_1"] in "rgb" for row in ok)
    assert all(row["confidence"] == row["score_1"] for row in ok)
    assert all(row["landmark"] in ("", row["candidate"]) for row in ok)
    assert all(row["candidate_4"] == row["score_4"] == "" for row in ok)
    assert all(float(row["score_1"]) >= float(row["score_2"]) for row in ok)
    assert {(row["nearest"], row["similarity"]) for row in ok} == {("g1", "1")}
    failed = next(row for row in rows if row["status"] != "ok")
    assert {name for name, cell in failed.items() if cell} == {"id", "status", "reason"}


@pytest.mark.parametrize("form", ["parquet", "jsonl"])
def test_failed_rows_are_taken_again_in_every_format(
    server: BadServer, tmp_path: Path, form: str
) -> None:
    listing = write_list(tmp_path / "list.csv", [f"{server.url}/ok/{i}.jpg" for i in range(20)])
    classify_as(Form(form), listing, tmp_path / f"whole.{form}")
    photograph = server.files.pop("5.jpg")
    out = tmp_path / f"out.{form}"
    assert classify_as(Form(form), listing, out).failed == 1
    server.files["5.jpg"] = photograph
    asked = len(server.requests)
    assert classify_as(Form(form), listing, out, retry_failed=True).failed == 0
    assert server.requests[asked:] == ["/ok/5.jpg"]
    assert classify_as(Form(form), listing, out).nothing_to_do


@pytest.mark.parametrize(
    "other", [Form("jsonl"), Form(top=1), Form(guard=True)], ids=["format", "top", "guard"]
)
def test_another_form_is_another_output(server: BadServer, tmp_path: Path, other: Form) -> None:
    listing = write_list(tmp_path / "list.csv", [f"{server.url}/ok/1.jpg"])
    classify_as(Form(), listing, tmp_path / "out.csv")
    before = (tmp_path / "out.csv").read_bytes()
    with pytest.raises(RunError, match=r"begun with another (format|top|guard)"):
        classify_as(other, listing, tmp_path / "out.csv", retry_failed=True)
    assert (tmp_path / "out.csv").read_bytes() == before


def test_text_is_guarded_against_spreadsheets(server: BadServer, tmp_path: Path) -> None:
    listing = tmp_path / "list.csv"
    listing.write_text(f"id,url\n=1+1,{server.url}/ok/1.jpg\n-2,{server.url}/ok/none.jpg\n")
    for guard, mark in ((True, "'"), (False, "")):
        out = tmp_path / f"{guard}.csv"
        classify_as(Form(guard=guard), listing, out)
        assert [row["id"] for row in read(out)] == [f"{mark}=1+1", f"{mark}-2"]
        classify_as(Form(guard=guard), listing, out, retry_failed=True)
        assert [row["id"] for row in read(out)] == [f"{mark}=1+1", f"{mark}-2"]


def test_a_carriage_return_in_a_row_is_kept_through_a_retry(
    server: BadServer, tmp_path: Path
) -> None:
    listing = tmp_path / "list.csv"
    listing.write_bytes(f'id,url\n"a\rb",{server.url}/ok/1.jpg\nc,{server.url}/no\n'.encode())
    classify(listing, tmp_path / "out.csv")
    assert classify(listing, tmp_path / "out.csv", retry_failed=True).failed == 1
    assert [row["id"] for row in read(tmp_path / "out.csv")] == ["a\rb", "c"]


def test_probabilities_have_six_significant_digits(server: BadServer, tmp_path: Path) -> None:
    listing = write_list(tmp_path / "list.csv", [f"{server.url}/ok/{i}.jpg" for i in range(20)])
    classify(listing, tmp_path / "out.csv")
    cells = [row["probability"] for row in read(tmp_path / "out.csv")]
    assert all(cell == f"{float(cell):.6g}" for cell in cells)
    assert max(len(cell.strip("0.")) for cell in cells) == 6


def test_paths_of_strangers_are_refused(server: BadServer, tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(PHOTOGRAPHS["3.jpg"])
    listing = tmp_path / "list.txt"
    listing.write_text(f"a.jpg\n{server.url}/ok/3.jpg\n/etc/hostname\n")
    classify_as(Form(), listing, tmp_path / "out.csv", urls_only=True)
    rows = read(tmp_path / "out.csv")
    refused = ("fetch_failed", "a path, where only URLs are taken (--urls-only)")
    assert [(row["status"], row["reason"]) for row in rows] == [refused, ("ok", ""), refused]
    with pytest.raises(RunError, match="another urls only"):
        classify_as(Form(), listing, tmp_path / "out.csv")


def test_only_regular_files_are_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    listing = tmp_path / "list.txt"
    listing.write_text("pipe\nfolder\n/dev/zero\n/proc/kmsg\n/proc/self/maps\nlist.txt/a\n")
    classify(listing, tmp_path / "out.csv")
    reasons = [row["reason"] for row in read(tmp_path / "out.csv")]
    assert reasons[:3] == ["not a regular file"] * 3
    assert reasons[3] in ("empty file", "no such file", "cannot be read (Permission denied)",
                          "cannot be read (Operation not permitted)")  # fmt: skip
    assert reasons[4:] == ["empty file", "no such file"]


def test_a_summary_says_why_rows_failed(server: BadServer, tmp_path: Path) -> None:
    listing = write_list(tmp_path / "list.csv", mixed(server, 45))
    summary = classify(listing, tmp_path / "out.csv")
    assert summary.reasons == (("HTTP 404", 9), ("not a photograph (a web page or text)", 9))
    assert summary.why() == ["9 × HTTP 404", "9 × not a photograph (a web page or text)"]
    assert classify(listing, tmp_path / "out.csv").reasons == summary.reasons
    private = classify(listing, tmp_path / "private.csv", fetch=FetchConfig())
    first, hint = private.why()
    assert first.startswith("45 × the address is not a public one")
    assert hint.startswith("--allow-private ")


def test_paths_that_lead_nowhere_are_told_where_they_were_looked_for(tmp_path: Path) -> None:
    listing = write_list(tmp_path / "list.csv", ["gone/a.jpg", "gone/b.jpg"])
    what, hint = classify(listing, tmp_path / "out.csv").why()
    assert what == "2 × no such file"
    assert hint.endswith("is looked for in the list's own folder")


def test_many_reasons_are_the_commonest_and_the_rest(server: BadServer, tmp_path: Path) -> None:
    urls = [f"{server.url}/status/{400 + i % 7}?{i}" for i in range(40)]
    listing = write_list(tmp_path / "list.csv", urls)
    summary = classify(listing, tmp_path / "out.csv")
    *most, rest = summary.why()
    counts = [int(line.split(" × ")[0]) for line in most]
    assert len(most) == 5
    assert counts == sorted(counts, reverse=True)
    assert rest == f"{40 - sum(counts)} × other reasons: they stand in {tmp_path / 'out.csv'}"


def test_photographs_are_not_written_over(tmp_path: Path) -> None:
    photograph = tmp_path / "a.jpg"
    photograph.write_bytes(PHOTOGRAPHS["3.jpg"])
    with opened([str(photograph)]) as given, pytest.raises(RunError, match="is a photograph"):
        classify_list(FakeSystem(), given, photograph, restart=True)
    assert photograph.read_bytes() == PHOTOGRAPHS["3.jpg"]


def test_a_folder_that_was_begun_goes_on_only_while_it_is_the_same(tmp_path: Path) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    for i in range(3):
        (folder / f"{i}.jpg").write_bytes(PHOTOGRAPHS[f"{i}.jpg"])

    def again() -> ClassifySummary:
        with opened([str(folder)]) as given:
            return classify_list(FakeSystem(), given, tmp_path / "out.csv")

    assert (again().rows, again().nothing_to_do) == (3, True)
    (folder / "new.jpg").write_bytes(PHOTOGRAPHS["4.jpg"])
    with pytest.raises(RunError, match="begun with another input"):
        again()
