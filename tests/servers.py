"""Loopback servers that behave badly, each in a way that photographs' servers do.

Routes (a count ``n`` is read from the path; a query after ``?`` only tells URLs apart):

- ``/ok/<name>``                the file ``name`` of the served files, ranges honoured
- ``/redirect/<n>/<name>``      n redirects, then the file
- ``/to?<url>``                 a redirect to any URL
- ``/flaky/<n>/<name>``         503 n times, then the file
- ``/busy/<seconds>/<name>``    429 with Retry-After once, then the file
- ``/status/<code>``            that status
- ``/slow/<seconds>/<name>``    waits, then the file
- ``/drip``                     a byte now and then, for ever
- ``/endless``                  chunks without an announced size, for ever
- ``/announced/<n>``            announces n bytes, sends ten
- ``/broken/<n>/<name>``        closes in the middle, n times; then the file
- ``/halves/<name>``            sends half of what is left and closes, down to 500,000 bytes
- ``/trickle/<name>``           64 KB at a time with pauses; ranges honoured
- ``/norange/<n>/<name>``       as /broken, ignoring ranges
- ``/coded/<coding>/<name>``    the file, said to be coded so; byte by byte with ``?drops``
- ``/partial/<range>/<n>/<name>``  206 with that Content-Range
- ``/lengths/<n>/<m>``          500 bytes, with several Content-Lengths
- ``/informational/<n>/<name>`` 100 Continue n times, or for ever, then the file
- ``/long/<n>/<name>``          a header of n bytes
- ``/cookie/<cookie>?<url>``    sets a cookie and redirects
- ``/garbage``                  not HTTP
"""

from __future__ import annotations

import re
import threading
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, unquote_to_bytes


class BadServer:
    """What the server was asked, and how many requests it had at a time."""

    def __init__(self, files: Mapping[str, bytes]) -> None:
        self.files = dict(files)
        self.requests: list[str] = []
        self.headers: list[dict[str, str]] = []
        self.visits: Counter[str] = Counter()
        self.busiest = 0
        self.url = ""
        self.closing = threading.Event()
        self.now = 0
        """Requests being answered."""
        self._lock = threading.Lock()

    def enter(self, path: str, headers: Mapping[str, str]) -> int:
        """Note a request; returns how often this path was asked for before."""
        with self._lock:
            self.now += 1
            self.busiest = max(self.busiest, self.now)
            self.requests.append(path)
            self.headers.append(dict(headers))
            self.visits[path] += 1
            return self.visits[path] - 1

    def leave(self) -> None:
        with self._lock:
            self.now -= 1


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128  # five, the default, makes the sixth caller wait a second

    def handle_error(self, request: object, client_address: object) -> None:
        return None  # callers that hang up are part of the tests


@contextmanager
def bad_server(files: Mapping[str, bytes], port: int = 0) -> Iterator[BadServer]:
    """Run the server in threads of this process."""
    state = BadServer(files)
    server = _Server(("127.0.0.1", port), _handler(state))
    state.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield state
    finally:
        state.closing.set()
        server.shutdown()
        thread.join()
        server.server_close()


def _handler(state: BadServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def log_message(self, *args: object) -> None:
            return None

        def do_GET(self) -> None:
            before = state.enter(self.path, self.headers)
            self.counted = True
            try:
                kind, _, rest = self.path[1:].partition("/")
                kind = kind.split("?")[0]
                rest = unquote(rest.split("?")[0], errors="surrogateescape")
                getattr(self, f"answer_{kind}", self.answer_status)(rest, before)
            except (BrokenPipeError, ConnectionResetError):
                self.close_connection = True
            finally:
                self.left()

        def left(self) -> None:
            """Count the request as answered, once."""
            if self.counted:
                self.counted = False
                state.leave()

        def send(self, status: int, body: bytes = b"", **headers: str) -> None:
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name.replace("_", "-"), value)
            if not {"Content_Length", "Transfer_Encoding"} & headers.keys():
                self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def answer_ok(self, name: str, before: int, cut: float = 1.0, whole_below: int = 0) -> None:
            if name not in state.files:
                return self.send(404)
            body = state.files[name]
            wanted = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
            start = int(wanted[1]) if wanted else 0
            if start and start >= len(body):
                return self.send(416, Content_Range=f"bytes */{len(body)}")
            left = body[start:]
            headers = {"Content_Length": str(len(left))}
            if wanted:
                headers["Content_Range"] = f"bytes {start}-{len(body) - 1}/{len(body)}"
            if cut < 1.0 and len(left) < whole_below:
                cut = 1.0
            if cut < 1.0:
                self.close_connection = True
            self.send(206 if wanted else 200, left[: max(1, int(len(left) * cut))], **headers)

        def answer_redirect(self, rest: str, before: int) -> None:
            count, _, name = rest.partition("/")
            left = int(count) - 1
            self.send(302, Location=f"/redirect/{left}/{name}" if left else f"/ok/{name}")

        def answer_to(self, rest: str, before: int) -> None:
            # Latin-1, which headers are sent in, keeps every byte.
            location = unquote_to_bytes(self.path.partition("?")[2]).decode("latin-1")
            self.send(302, Location=location)

        def answer_flaky(self, rest: str, before: int) -> None:
            count, _, name = rest.partition("/")
            self.send(503) if before < int(count) else self.answer_ok(name, before)

        def answer_busy(self, rest: str, before: int) -> None:
            seconds, _, name = rest.partition("/")
            self.answer_ok(name, before) if before else self.send(429, Retry_After=seconds)

        def answer_status(self, rest: str, before: int) -> None:
            body = b"b" * 500 if rest == "203" else b""
            self.send(int(rest or 404), body)

        def answer_slow(self, rest: str, before: int) -> None:
            seconds, _, name = rest.partition("/")
            state.closing.wait(float(seconds))
            self.left()  # before the last byte, which the next request may follow at once
            self.answer_ok(name, before)

        def answer_drip(self, rest: str, before: int) -> None:
            self.send(200, b"x", Content_Length="1000000")
            while not state.closing.wait(0.02):
                self.wfile.write(b"x")

        def answer_endless(self, rest: str, before: int) -> None:
            self.send(200, Transfer_Encoding="chunked")
            while not state.closing.is_set():
                self.wfile.write(b"4000\r\n" + bytes(0x4000) + b"\r\n")

        def answer_announced(self, rest: str, before: int) -> None:
            self.close_connection = True
            self.send(200, b"0123456789", Content_Length=rest)

        def answer_broken(self, rest: str, before: int) -> None:
            count, _, name = rest.partition("/")
            self.answer_ok(name, before, cut=0.5 if before < int(count) else 1.0)

        def answer_halves(self, name: str, before: int) -> None:
            self.answer_ok(name, before, cut=0.5, whole_below=500_000)

        def answer_trickle(self, name: str, before: int) -> None:
            write = self.wfile.write

            def slowly(data: bytes) -> None:
                for start in range(0, len(data), 65536):
                    write(data[start : start + 65536])
                    state.closing.wait(0.005)

            self.wfile.write = slowly  # type: ignore[method-assign]
            try:
                self.answer_ok(name, before)
            finally:
                self.wfile.write = write  # type: ignore[method-assign]

        def answer_norange(self, rest: str, before: int) -> None:
            del self.headers["Range"]
            self.answer_broken(rest, before)

        def answer_coded(self, rest: str, before: int) -> None:
            coding, _, name = rest.partition("/")
            body = state.files[name]
            if not self.path.endswith("?drops"):
                return self.send(200, body, Content_Encoding=coding)
            self.send(200, Content_Encoding=coding, Content_Length=str(len(body)))
            for at in range(3):
                self.wfile.write(body[at : at + 1])
                state.closing.wait(0.02)
            self.wfile.write(body[3:])

        def answer_partial(self, rest: str, before: int) -> None:
            part, size, name = rest.split("/")
            self.send(206, state.files[name], Content_Range=f"bytes {part}/{size}")

        def answer_lengths(self, rest: str, before: int) -> None:
            self.send_response(200)
            for length in rest.split("/"):
                self.send_header("Content-Length", length)
            self.end_headers()
            self.wfile.write(b"b" * 500)

        def answer_informational(self, rest: str, before: int) -> None:
            count, _, name = rest.partition("/")
            again = b"HTTP/1.1 100 Continue\r\n\r\n"
            while count == "0" and not state.closing.is_set():
                self.wfile.write(again * 1000)
            self.wfile.write(again * int(count))
            self.answer_ok(name, before)

        def answer_long(self, rest: str, before: int) -> None:
            count, _, name = rest.partition("/")
            self.send(200, state.files[name], X_Long="x" * int(count))

        def answer_cookie(self, rest: str, before: int) -> None:
            location = self.path.partition("?")[2]
            self.send(302, Location=location, Set_Cookie=f"{rest}; Path=/; HttpOnly")

        def answer_garbage(self, rest: str, before: int) -> None:
            self.close_connection = True
            self.wfile.write(b"SSH-2.0-OpenSSH_9.6\r\n\r\n")

    return Handler
