"""A proxy before an HTTP server, which loses, delays and cuts what passes as it is told."""

import http.client
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

# What it can do to a request or to its answer.
FAULTS = {
    "drop": "the connection ends before the server hears of the request",
    "lost": "the server does what was asked, and the connection ends before it answers",
    "error": "the answer is 500",
    "busy": "the answer is 503, slow down",
    "cut": "the answer ends in the middle of its body",
    "short": "so it does, and its headers say that this is all",
    "slow": "the answer's body comes piece after piece, with pauses",
}
_TO_ITSELF = {"connection", "transfer-encoding", "keep-alive"}


class FaultyProxy(ThreadingHTTPServer):
    """The proxy; `fault` is asked about each request, and names what to do to it, or nothing.

    Attributes:
        fault: gets the method, the path without its query, and the request's number.
        seen: method and path of each request.
    """

    daemon_threads = True

    def __init__(self, port):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.behind = port
        self.lock = threading.Lock()
        self.reset()

    def reset(self, fault=lambda method, path, number: ""):
        """Begins to count again, under another rule."""
        with self.lock:
            self.fault, self.seen = fault, []

    def ask(self, method, path):
        with self.lock:
            self.seen.append((method, path))
            return self.fault(method, path, len(self.seen))

    def handle_error(self, request, address):
        """Clients hang up here all the time."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def _pass(self):
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        fault = self.server.ask(self.command, self.path.partition("?")[0])
        if fault == "drop":
            return self._hang_up()
        if fault in ("error", "busy"):
            code, name = (500, "InternalError") if fault == "error" else (503, "SlowDown")
            text = f"<Error><Code>{name}</Code><Message>{name}</Message></Error>".encode()
            return self._answer(code, [("Content-Type", "application/xml")], text, len(text))
        server = http.client.HTTPConnection("127.0.0.1", self.server.behind)
        server.request(self.command, self.path, body, dict(self.headers))
        answer = server.getresponse()
        content = answer.read()
        server.close()
        if fault == "lost":
            return self._hang_up()
        told = [h for h in answer.getheaders() if h[0].lower() not in _TO_ITSELF]
        headers = [h for h in told if h[0].lower() != "content-length"]
        size = int(answer.getheader("Content-Length", len(content)))
        if fault in ("cut", "short") and self.command == "GET":
            content = content[: len(content) // 2]
            size = size if fault == "cut" else len(content)
        self._answer(answer.status, headers, content, size, pause=0.02 * (fault == "slow"))
        if fault == "cut" and self.command == "GET":
            self._hang_up()
        return None

    do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = _pass  # noqa: N815

    def _answer(self, code, headers, content, size, pause=0):
        self.send_response_only(code)
        for name, value in headers:
            self.send_header(name, value)
        self.send_header("Content-Length", str(size))
        self.end_headers()
        if self.command == "HEAD":
            return
        step = max(1, len(content) // 4) if pause else max(1, len(content))
        for start in range(0, len(content), step):
            time.sleep(pause)
            self.wfile.write(content[start : start + step])
            self.wfile.flush()

    def _hang_up(self):
        self.close_connection = True
        self.connection.close()

    def log_message(self, *args):
        """Nothing."""
