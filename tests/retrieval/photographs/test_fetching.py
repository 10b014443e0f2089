"""Fetching against loopback servers that misbehave; nothing else is ever contacted."""

from __future__ import annotations

import asyncio
import gzip
import ipaddress
import socket
import threading
import time
import tracemalloc
import zlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import brotli
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from retrieval.errors import FetchError
from retrieval.photographs import http_answer, http_client
from retrieval.photographs.addresses import is_public
from retrieval.photographs.fetch_config import FetchConfig
from retrieval.photographs.fetching import Fetcher
from retrieval.photographs.http_client import Lookup
from tests.servers import BadServer, bad_server

PHOTO = bytes(range(256)) * 40
BOMB = gzip.compress(bytes(40_000_000))
BROTLI_BOMB = brotli.compress(bytes(40_000_000), quality=1)
PRIVATE = "the address is not a public one (private, loopback or reserved)"


@pytest.fixture
def server() -> Iterator[BadServer]:
    files = {"a.jpg": PHOTO, "b.jpg": b"b" * 500, "empty.jpg": b""}
    files |= {"a.gz": gzip.compress(PHOTO), "cut.gz": gzip.compress(PHOTO)[:-9]}
    files |= {"a.br": brotli.compress(PHOTO), "cut.br": brotli.compress(PHOTO)[:-9]}
    files |= {"bomb.br": BROTLI_BOMB, "bomb.gz.br": brotli.compress(BOMB)}
    files |= {"bomb.gz": BOMB, "bomb.gz.gz": gzip.compress(BOMB)}
    files |= {"two.gz": gzip.compress(PHOTO[:99]) + gzip.compress(PHOTO[99:]) + bytes(9)}
    files |= {"a.zlib": zlib.compress(PHOTO), "a.raw": zlib.compress(PHOTO, wbits=-15)}
    with bad_server(files) as server:
        yield server


@dataclass(frozen=True)
class Fetched:
    """What became of one URL: exactly one of ``data`` and ``error`` is there."""

    row: int
    data: bytes | None
    error: FetchError | None


def fetch_all(
    urls: Sequence[tuple[int, str]], limits: FetchConfig, lookup: Lookup | None = None
) -> list[Fetched]:
    with ThreadPoolExecutor(1) as pool, Fetcher(limits, lookup) as fetcher:
        jobs = [(row, fetcher.submit(url, bytes, pool)) for row, url in urls]
        errors = [job.exception() for _, job in jobs]
        assert all(error is None or isinstance(error, FetchError) for error in errors)
        return [
            Fetched(row, None, error) if isinstance(error, FetchError)
            else Fetched(row, job.result(), None)
            for (row, job), error in zip(jobs, errors, strict=True)
        ]  # fmt: skip


def config(**changes: object) -> FetchConfig:
    quick = {
        "allow_private": True,
        "backoff_seconds": 0.01,
        "backoff_cap_seconds": 0.05,
        "read_seconds": 5.0,
        "total_seconds": 10.0,
    }
    return FetchConfig.model_validate({**quick, **changes})


def fetch(url: str, **changes: object) -> Fetched:
    (fetched,) = fetch_all([(7, url)], config(**changes))
    assert fetched.row == 7
    return fetched


def reason(url: str, **changes: object) -> str:
    fetched = fetch(url, **changes)
    assert fetched.data is None
    assert fetched.error is not None
    assert "\n" not in str(fetched.error)
    assert "127.0.0.1" not in str(fetched.error), "reasons name no sockets"
    return str(fetched.error)


def test_every_row_comes_out_once_whatever_becomes_of_it(server: BadServer) -> None:
    urls = [(i, f"{server.url}/{'ok' if i % 3 else 'flaky/1'}/a.jpg?{i}") for i in range(20)]
    urls += [(20 + i, f"{server.url}/status/404?{i}") for i in range(5)]
    fetched = fetch_all(urls, config())
    assert [f.row for f in fetched] == list(range(25))
    assert all((f.data is None) != (f.error is None) for f in fetched)


def test_bytes_arrive_as_they_were_sent(server: BadServer) -> None:
    assert fetch(f"{server.url}/ok/a.jpg").data == PHOTO
    assert server.headers[0]["Accept-Encoding"] == "identity"
    assert "landmarks" in server.headers[0]["User-Agent"]


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/status/404", "HTTP 404"),
        ("/status/403", "HTTP 403"),
        ("/status/204", "HTTP 204"),
        ("/status/500", "HTTP 500"),
        ("/ok/empty.jpg", "empty answer"),
        ("/coded/br/a.jpg", "compressed answer that cannot be unpacked"),
        ("/coded/br/cut.br", "compressed answer that is cut off"),
        ("/coded/br/bomb.br", "larger than 33554432 bytes"),
        ("/coded/gzip,br/bomb.gz.br", "larger than 33554432 bytes"),
        ("/coded/gzip,zstd/a.jpg", "compressed by zstd, which is not read"),
        ("/coded/gzip/a.jpg", "compressed answer that cannot be unpacked"),
        ("/coded/gzip/cut.gz", "compressed answer that is cut off"),
        ("/coded/gzip/bomb.gz", "larger than 33554432 bytes"),
        ("/coded/gzip,gzip/bomb.gz.gz", "larger than 33554432 bytes"),
        ("/partial/0-9/20/b.jpg", "HTTP 206, a part of the file alone"),
        ("/partial/1-499/500/b.jpg", "HTTP 206, a part of the file alone"),
        ("/lengths/500/501", "not an HTTP answer"),
        ("/informational/33/b.jpg", "not an HTTP answer"),
        ("/long/70000/b.jpg", "not an HTTP answer"),
        ("/garbage", "not an HTTP answer"),
        ("/announced/20", "connection broken off"),
        ("/redirect/6/a.jpg", "more than 5 redirects"),
        ("/status/302", "redirect to nowhere"),
        ("/to?ftp://localhost/a.jpg", "not an http or https address"),
        ("/to?file:///etc/hostname", "not an http or https address"),
    ],
)
def test_reasons(server: BadServer, path: str, expected: str) -> None:
    assert reason(server.url + path) == expected


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("ftp://example.org/a.jpg", "not an http or https address"),
        ("file:///etc/passwd", "not an http or https address"),
        ("/etc/passwd", "not an http or https address"),
        ("", "not an http or https address"),
        ("http://", "the address names no host"),
        ("http://[::1", "not a usable address"),
        ("http://a b.example/", "not a usable address"),
        ("http://a.example\r\nX: y/", "not a usable address"),
        ("http://a.example\\@b.example/", "not a usable address"),
        ("http://a.example/\ud800", "not a usable address"),
        ("http://a.example:99999/", "not a usable address"),
        ("http://" + "a" * 70 + ".example/", "not a usable address"),
    ],
)
def test_unusable_addresses(url: str, expected: str) -> None:
    assert reason(url) == expected


def test_redirects_are_followed(server: BadServer) -> None:
    assert fetch(f"{server.url}/redirect/5/a.jpg").data == PHOTO
    assert fetch(f"{server.url}/to?{server.url}/ok/b.jpg").data == b"b" * 500


@pytest.mark.parametrize(
    "written",
    [
        "/ok/a.jpg?sig=a%2Fb%2fc%3D&x=%7E~%41+%20",
        "/ok/%61.jpg",
        "/ok/./../ok/a.jpg",
        "/ok//a.jpg?a?b=/",
        "/ok/a.jpg?100%&q='(x)!*;:@,[]|{}^",
    ],
)
def test_a_url_is_asked_for_as_it_was_written(server: BadServer, written: str) -> None:
    fetch(server.url + written)
    location = server.url + written
    fetch(f"{server.url}/to?{quote(location)}")
    assert server.requests[0] == server.requests[-1] == written


@pytest.mark.parametrize(
    ("written", "asked"),
    [
        ("/ok/a b.jpg?c d", "/ok/a%20b.jpg?c%20d"),
        ("/ok/\u00e9.jpg?\u00e9", "/ok/%C3%A9.jpg?%C3%A9"),
        ("/ok/\udce9.jpg", "/ok/%E9.jpg"),
        ("/ok/a\r\nX: y.jpg#part", "/ok/a%0D%0AX:%20y.jpg"),
        ("?x", "/?x"),
        ("", "/"),
    ],
)
def test_what_no_request_can_hold_is_escaped(server: BadServer, written: str, asked: str) -> None:
    fetch(server.url + written)
    assert server.requests == [asked]


def test_a_redirect_keeps_its_bytes(server: BadServer) -> None:
    server.files["caf\udce9.jpg"] = PHOTO
    assert fetch(f"{server.url}/to?/ok/caf%E9.jpg").data == PHOTO
    assert server.requests[-1] == "/ok/caf%E9.jpg"


@pytest.mark.parametrize(
    ("location", "asked"),
    [
        ("b.jpg", "/to/b.jpg"),
        ("../ok/b.jpg?c%2Fd", "/ok/b.jpg?c%2Fd"),
        ("/ok/b.jpg#part", "/ok/b.jpg"),
        ("//{host}/ok/b%41", "/ok/b%41"),
    ],
)
def test_redirects_may_be_relative(server: BadServer, location: str, asked: str) -> None:
    host = server.url.removeprefix("http://")
    fetch(f"{server.url}/to/a.jpg?{quote(location.format(host=host))}")
    assert server.requests[1] == asked


@pytest.mark.parametrize("coding", ["identity", "none", "Binary", "UTF-8", "aws-chunked", ""])
def test_codings_that_change_nothing_pass(server: BadServer, coding: str) -> None:
    assert fetch(f"{server.url}/coded/{coding}/a.jpg").data == PHOTO


@pytest.mark.parametrize(
    ("coding", "name"),
    [
        ("gzip", "a.gz"),
        ("x-gzip, identity", "a.gz"),
        ("gzip", "two.gz"),
        ("br", "a.br"),
        ("deflate", "a.zlib"),
        ("deflate", "a.raw"),
    ],
)
def test_compressed_answers_are_unpacked(server: BadServer, coding: str, name: str) -> None:
    assert fetch(f"{server.url}/coded/{coding}/{name}").data == PHOTO
    drops = f"{server.url}/coded/{coding}/{name}?drops"
    assert fetch(drops).data == PHOTO, "whatever the pieces that it comes in"


@pytest.mark.parametrize(
    "path",
    [
        "/partial/0-499/500/b.jpg",
        "/status/203",
        "/lengths/500/500",
        "/lengths/500, 500",
        "/informational/32/b.jpg",
        "/long/60000/b.jpg",
    ],
)
def test_odd_but_whole_answers_are_taken(server: BadServer, path: str) -> None:
    assert fetch(server.url + path).data == b"b" * 500


def test_a_part_that_breaks_off_is_tried_again(server: BadServer) -> None:
    assert reason(f"{server.url}/partial/0-999/1000/b.jpg") == "connection broken off"
    assert len(server.requests) == 3


def test_endless_informational_answers_starve_nobody(server: BadServer) -> None:
    urls = [(0, f"{server.url}/informational/0/b.jpg"), (1, f"{server.url}/ok/b.jpg")]
    fetched = {f.row: f for f in fetch_all(urls, config(retries=0, per_host=1))}
    assert str(fetched[0].error) == "not an HTTP answer"
    assert fetched[1].data == b"b" * 500


def test_headers_are_sent_with_every_request(server: BadServer) -> None:
    told = {
        "headers": {"Authorization": "secret", "X-Key": "1"},
        "user_agent": "me (mail@a.example)",
    }
    assert fetch(f"{server.url}/redirect/2/a.jpg", **told).data == PHOTO
    assert len(server.headers) == 3
    for headers in server.headers:
        assert headers["Authorization"] == "secret"
        assert headers["X-Key"] == "1"
        assert headers["User-Agent"] == "me (mail@a.example)"


@pytest.mark.parametrize("back", [False, True])
def test_headers_are_not_sent_to_another_server(server: BadServer, back: bool) -> None:
    with bad_server({"a.jpg": PHOTO}) as other:
        target = f"{other.url}/ok/a.jpg"
        if back:
            target = f"{other.url}/to?{server.url}/ok/a.jpg"
        assert fetch(f"{server.url}/to?{target}", headers={"Authorization": "secret"}).data == PHOTO
        assert "Authorization" not in other.headers[0]
    assert all(headers["Authorization"] == "secret" for headers in server.headers)


@pytest.mark.parametrize(
    "headers",
    [{"a b": "c"}, {"": "c"}, {"X": "a\r\nY: b"}, {"Range": "bytes=1-"}, {"content-length": "3"}],
)
def test_headers_that_cannot_be_sent_are_refused(headers: dict[str, str]) -> None:
    with pytest.raises(ValidationError, match=r"plain characters|decided for each request"):
        FetchConfig(headers=headers)
    with pytest.raises(ValidationError, match="plain characters"):
        FetchConfig(user_agent="a\nb")


def test_a_cookie_is_sent_back_to_its_host_within_the_chain(server: BadServer) -> None:
    with bad_server({"a.jpg": PHOTO}) as other:
        elsewhere = other.url.replace("127.0.0.1", "localhost")
        steps = f"{server.url}/cookie/b=2?{elsewhere}/to?{server.url}/ok/a.jpg"
        assert fetch(f"{server.url}/cookie/a=1?{steps}").data == PHOTO
        assert "Cookie" not in other.headers[0]
    asked = [headers.get("Cookie") for headers in server.headers]
    assert asked == [None, "a=1", "a=1; b=2"]
    assert fetch(f"{server.url}/ok/a.jpg").data == PHOTO
    assert "Cookie" not in server.headers[-1]


def test_a_cookie_joins_the_users_own(server: BadServer) -> None:
    url = f"{server.url}/cookie/a=1?{server.url}/ok/a.jpg"
    assert fetch(url, headers={"cookie": "mine=0"}).data == PHOTO
    assert [headers.get("Cookie", headers.get("cookie")) for headers in server.headers] == [
        "mine=0",
        "mine=0; a=1",
    ]


@pytest.mark.parametrize(("path", "tries"), [("/flaky/2/a.jpg", 3), ("/broken/2/a.jpg", 3)])
def test_what_may_pass_is_tried_again(server: BadServer, path: str, tries: int) -> None:
    assert fetch(server.url + path, retries=2).data == PHOTO
    assert server.visits[path] == tries


@pytest.mark.parametrize(
    ("path", "tries"),
    [*((f"/status/{code}", 4) for code in (408, 425, 429, 500, 503, 599)), ("/status/404", 1)],
)
def test_tries_are_counted(server: BadServer, path: str, tries: int) -> None:
    reason(server.url + path, retries=3)
    assert server.visits[path] == tries


def test_pauses_double_and_are_the_same_each_run(
    server: BadServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    pauses: list[float] = []

    async def sleep(seconds: float) -> None:
        pauses.append(seconds)

    monkeypatch.setattr(asyncio, "sleep", sleep)
    for _ in range(2):
        reason(f"{server.url}/status/503", retries=4, backoff_seconds=1.0, backoff_cap_seconds=5.0)
    assert pauses[:4] == pauses[4:]
    assert all(2**k / 2 <= pause <= min(2**k, 5) for k, pause in enumerate(pauses[:4]))


@pytest.mark.parametrize(("asked", "paused"), [("2", 2.0), ("1000", 5.0), ("soon", 0.0)])
def test_retry_after_is_honoured_up_to_the_cap(
    server: BadServer, monkeypatch: pytest.MonkeyPatch, asked: str, paused: float
) -> None:
    pauses: list[float] = []

    async def sleep(seconds: float) -> None:
        pauses.append(seconds)

    monkeypatch.setattr(asyncio, "sleep", sleep)
    url = f"{server.url}/busy/{asked}/a.jpg"
    assert fetch(url, backoff_seconds=0.0, backoff_cap_seconds=5.0).data == PHOTO
    assert pauses == [paused]


def test_retry_after_may_be_a_date() -> None:
    assert http_answer._retry_after("Fri, 01 Jan 2100 00:00:00 GMT") > 1e9
    assert http_answer._retry_after("Fri, 01 Jan 2100 00:00:00") == 0.0


def test_sizes_are_capped(server: BadServer) -> None:
    cap = {"max_bytes": 4000, "bytes_in_flight": 8000}
    assert reason(f"{server.url}/announced/999999999", **cap) == "larger than 4000 bytes"
    assert reason(f"{server.url}/endless", **cap) == "larger than 4000 bytes"
    assert fetch(f"{server.url}/ok/b.jpg", **cap).data == b"b" * 500


def test_slow_servers_time_out(server: BadServer) -> None:
    assert reason(f"{server.url}/slow/9/a.jpg", read_seconds=0.1, retries=1) == "timed out"
    assert len(server.requests) == 2
    assert reason(f"{server.url}/drip", total_seconds=0.15) == "timed out"
    assert server.visits["/drip"] == 1, "a drip is not worth another try"


def test_dead_ports_and_names() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
        assert reason(f"http://127.0.0.1:{port}/", retries=1) == "cannot connect"

    def unknown(host: str, port: int) -> list[str]:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    (fetched,) = fetch_all([(0, "http://nowhere.example/")], config(), lookup=unknown)
    assert str(fetched.error) == "host not found"


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1",
        "localhost",
        "[::1]",
        "[::ffff:127.0.0.1]",
        "[::ffff:7f00:1]",
        "[64:ff9b::127.0.0.1]",
        "[2002:7f00:1::]",
        "0.0.0.0",
        "10.1.2.3",
        "169.254.169.254",
        "100.64.0.1",
        "[fe80::1]",
        "[fc00::1]",
    ],
)
def test_private_addresses_are_refused(server: BadServer, host: str) -> None:
    port = server.url.rpartition(":")[2]
    assert reason(f"http://{host}:{port}/ok/a.jpg", allow_private=False) == PRIVATE
    assert not server.requests


@pytest.mark.parametrize(
    "host", ["2130706433", "017700000001", "0x7f000001", "127.1", "0177.0.0.1"]
)
def test_odd_spellings_of_loopback_do_not_get_through(server: BadServer, host: str) -> None:
    port = server.url.rpartition(":")[2]
    assert reason(f"http://{host}:{port}/ok/a.jpg", allow_private=False) in (
        PRIVATE,
        "not a usable address",
        "host not found",
    )
    assert not server.requests


def test_names_that_lead_to_private_addresses_are_refused(server: BadServer) -> None:
    port = server.url.rpartition(":")[2]
    for addresses in (["127.0.0.1"], ["93.184.215.14", "10.0.0.1"], ["2606:4700::1", "::1"]):
        (fetched,) = fetch_all(
            [(0, f"http://photos.example:{port}/ok/a.jpg")],
            config(allow_private=False),
            lookup=lambda host, port, found=addresses: found,
        )
        assert str(fetched.error) == PRIVATE
    assert not server.requests


@pytest.fixture
def loopback_is_public(monkeypatch: pytest.MonkeyPatch) -> None:
    """127.0.0.1 passes for a public address, so that a public server can be played here."""
    truly = is_public
    monkeypatch.setattr(http_client, "is_public", lambda ip: ip == "127.0.0.1" or truly(ip))


@pytest.mark.usefixtures("loopback_is_public")
@pytest.mark.parametrize(
    "target", ["http://127.0.0.2:{port}/ok/a.jpg", "http://[::1]:{port}/", "//10.0.0.1/a.jpg"]
)
def test_a_public_server_cannot_redirect_inwards(server: BadServer, target: str) -> None:
    port = server.url.rpartition(":")[2]
    url = f"{server.url}/to?{target.format(port=port)}"
    assert fetch(f"{server.url}/ok/a.jpg", allow_private=False).data == PHOTO
    assert reason(url, allow_private=False) == PRIVATE
    assert len(server.requests) == 2


@pytest.mark.usefixtures("loopback_is_public")
def test_a_name_is_judged_by_the_address_it_is_connected_to(server: BadServer) -> None:
    """DNS rebinding: the name is public when first looked up, and private from then on."""
    port = server.url.rpartition(":")[2]
    answers = iter([["127.0.0.1"], ["127.0.0.2"]])
    looked_up: list[str] = []

    def rebinding(host: str, port: int) -> list[str]:
        looked_up.append(host)
        return next(answers)

    urls = [(i, f"http://photos.example:{port}/ok/a.jpg") for i in range(10)]
    fetched = list(fetch_all(urls, config(allow_private=False), lookup=rebinding))
    assert all(f.data == PHOTO for f in fetched)
    assert looked_up == ["photos.example"], "looked up once, and that address is used"


@given(st.ip_addresses(v=4))
def test_ipv6_forms_of_an_ipv4_address_are_judged_alike(ip: ipaddress.IPv4Address) -> None:
    number = int(ip)
    forms = [
        ipaddress.IPv6Address((0xFFFF << 32) | number),
        ipaddress.IPv6Address((0x64FF9B << 96) | number),
        ipaddress.IPv6Address((0x2002 << 112) | (number << 80)),
    ]
    assert {is_public(str(form)) for form in forms} == {is_public(str(ip))}


@pytest.mark.parametrize("block", ["192.0.0.9", "168.63.129.16", "192.88.99.1", "100.64.1.1"])
def test_special_blocks_are_refused_in_every_form(block: str) -> None:
    number = int(ipaddress.IPv4Address(block))
    forms = [block, f"::ffff:{block}", f"64:ff9b::{block}", f"64:ff9b:1::{block}", f"::{block}"]
    forms.append(str(ipaddress.IPv6Address((0x2002 << 112) | (number << 80))))
    assert not any(map(is_public, forms))


@given(st.ip_addresses())
def test_what_is_public_is_so_for_the_interpreter_too(
    ip: ipaddress.IPv4Address | ipaddress.IPv6Address,
) -> None:
    assert ip.is_global or not is_public(str(ip))


@pytest.mark.parametrize("ip", ["8.8.8.8", "2606:4700::1111", "64:ff9b::808:808"])
def test_public_addresses(ip: str) -> None:
    assert is_public(ip)


@pytest.mark.parametrize(
    "ip",
    "224.0.0.1 ff0e::1 240.0.0.1 255.255.255.255 192.0.0.1 198.18.0.1 fec0::1 :: fe80::1%eth0"
    " 2001:0:a00:1:: ::7f00:1 2001:db8::1 nonsense 3fff::1 3fff:fff:: 5f00::1 100::1 4000::1"
    " 64:ff9b:1::808:808 192.0.0.10 192.0.0.171 168.63.129.16 192.88.99.2".split(),
)
def test_other_addresses(ip: str) -> None:
    assert not is_public(ip)


def test_requests_are_bounded_in_all_and_per_host(server: BadServer) -> None:
    urls = [(i, f"{server.url}/slow/0.02/b.jpg?{i}") for i in range(24)]
    assert all(f.data for f in fetch_all(urls, config(per_host=3, concurrency=8)))
    assert server.busiest == 3
    server.busiest = 0
    both = [(i, url.replace("127.0.0.1", "localhost") if i % 2 else url) for i, url in urls]
    assert all(f.data for f in fetch_all(both, config(per_host=4, concurrency=5)))
    assert server.busiest == 5


def test_leaving_early_ends_what_is_under_way(server: BadServer) -> None:
    before = threading.active_count()
    slow = config(read_seconds=60.0, total_seconds=60.0)
    with ThreadPoolExecutor(1) as pool, Fetcher(slow) as fetcher:
        assert fetcher.submit(f"{server.url}/ok/a.jpg", len, pool).result() == len(PHOTO)
        jobs = [fetcher.submit(f"{server.url}/slow/9/{i}", len, pool) for i in range(1, 9)]
        while server.now < 7:
            time.sleep(0.01)
    assert all(job.cancelled() for job in jobs)
    assert not any(thread.name == "fetcher" for thread in threading.enumerate())
    assert threading.active_count() <= before + 9  # the server's threads alone
    assert server.now > 0, "it did not wait for the slow ones"


def test_bytes_in_flight_are_bounded(server: BadServer) -> None:
    server.files["large"] = bytes(500_000)
    taken = threading.Event()
    limits = config(max_bytes=1_000_000, bytes_in_flight=2_000_000)
    tracemalloc.start()
    try:
        with ThreadPoolExecutor(1) as pool, Fetcher(limits) as fetcher:
            urls = [f"{server.url}/ok/large?{i}" for i in range(60)]
            jobs = [fetcher.submit(url, lambda data: taken.wait(9), pool) for url in urls]
            time.sleep(0.4)  # time enough for all 30 MB to arrive, were they let
            peak = tracemalloc.get_traced_memory()[1]
            taken.set()
            assert all(job.result() for job in jobs)
    finally:
        tracemalloc.stop()
    assert peak < 8_000_000


def test_one_photograph_must_fit_the_budget() -> None:
    with pytest.raises(ValidationError, match="at least max_bytes"):
        FetchConfig(max_bytes=2_000, bytes_in_flight=1_000)
    with pytest.raises(ValidationError):
        FetchConfig.model_validate({"timeout": 3})


def test_credentials_and_queries_stay_out_of_messages(server: BadServer) -> None:
    address = server.url.replace("http://", "http://me:secret@")
    for path in ("/status/404?key=secret", "/garbage?secret", "/announced/99?secret"):
        assert "secret" not in reason(address + path, retries=0)


def test_proxies_of_the_environment_are_not_used(
    server: BadServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    assert fetch(f"{server.url}/ok/a.jpg").data == PHOTO


def download(url: str, path: Path, config: FetchConfig, **options: Any) -> None:
    with Fetcher(config) as fetcher:
        fetcher.download(url, path, **options)


class TestDownload:
    def test_goes_on_where_the_connection_broke(self, server: BadServer, tmp_path: Path) -> None:
        server.files["a.tar"] = PHOTO * 300
        path = tmp_path / "deep" / "a.tar"
        download(f"{server.url}/halves/a.tar", path, config(retries=1), max_bytes=10**7)
        assert path.read_bytes() == PHOTO * 300
        assert [p.name for p in path.parent.iterdir()] == ["a.tar"]
        asked = [int(headers.get("Range", "bytes=0-")[6:-1]) for headers in server.headers]
        assert len(asked) >= 4, "progress made counts more than tries"
        assert asked == sorted(set(asked))

    def test_goes_on_from_a_part_file(self, server: BadServer, tmp_path: Path) -> None:
        (tmp_path / "a.tar.part").write_bytes(PHOTO[:6000])
        download(f"{server.url}/ok/a.jpg", tmp_path / "a.tar", config(), max_bytes=10**6)
        assert (tmp_path / "a.tar").read_bytes() == PHOTO
        assert [headers.get("Range") for headers in server.headers] == ["bytes=6000-"]

    def test_a_complete_part_is_only_renamed(self, server: BadServer, tmp_path: Path) -> None:
        (tmp_path / "a.tar.part").write_bytes(PHOTO)
        download(f"{server.url}/ok/a.jpg", tmp_path / "a.tar", config(), max_bytes=10**6)
        assert (tmp_path / "a.tar").read_bytes() == PHOTO

    def test_a_part_longer_than_the_file_begins_anew(
        self, server: BadServer, tmp_path: Path
    ) -> None:
        (tmp_path / "a.tar.part").write_bytes(PHOTO + b"more")
        download(f"{server.url}/ok/a.jpg", tmp_path / "a.tar", config(), max_bytes=10**6)
        assert (tmp_path / "a.tar").read_bytes() == PHOTO

    def test_servers_without_ranges_begin_anew(self, server: BadServer, tmp_path: Path) -> None:
        url = f"{server.url}/norange/2/a.jpg"
        download(url, tmp_path / "a.tar", config(retries=2), max_bytes=10**6)
        assert (tmp_path / "a.tar").read_bytes() == PHOTO

    def test_without_resuming_the_part_is_not_trusted(
        self, server: BadServer, tmp_path: Path
    ) -> None:
        (tmp_path / "a.csv.part").write_bytes(b"other")
        url = f"{server.url}/broken/1/a.jpg"
        download(url, tmp_path / "a.csv", config(), max_bytes=10**6, resume=False)
        assert (tmp_path / "a.csv").read_bytes() == PHOTO
        assert not any("Range" in headers for headers in server.headers)

    @pytest.mark.parametrize("resume", [True, False])
    def test_gives_up_at_last(self, server: BadServer, tmp_path: Path, resume: bool) -> None:
        url = f"{server.url}/broken/99/a.jpg" if not resume else f"{server.url}/status/503"
        with pytest.raises(FetchError):
            download(url, tmp_path / "a", config(retries=2), max_bytes=10**6, resume=resume)
        assert len(server.requests) == 3

    @pytest.mark.parametrize("path", ["/ok/a.jpg", "/endless"])
    def test_is_capped(self, server: BadServer, tmp_path: Path, path: str) -> None:
        with pytest.raises(FetchError, match="larger than 5000 bytes"):
            download(server.url + path, tmp_path / "a", config(), max_bytes=5000)
        assert not (tmp_path / "a").exists()

    def test_places_that_cannot_be_written(self, server: BadServer, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("")
        with pytest.raises(FetchError, match="cannot write"):
            download(f"{server.url}/ok/a.jpg", tmp_path / "file" / "a", config(), max_bytes=5000)


def test_limits_are_shared_out_among_those_who_fetch_beside_each_other() -> None:
    config = FetchConfig(concurrency=64, per_host=4, retries=5)
    assert config.shared_by(1) == config
    third = config.shared_by(3)
    assert (third.concurrency, third.per_host, third.retries) == (21, 1, 5)
    assert config.shared_by(100).per_host == 1
