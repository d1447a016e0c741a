"""An object store that speaks S3, on this machine, behind a proxy that can make its requests fail or wait."""

from __future__ import annotations

import http.client
import socket
import struct
import subprocess
import sys
import time
from contextlib import closing, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

DENIED = """<?xml version="1.0" encoding="UTF-8"?>
<Error><Code>{code}</Code><Message>{code} it is</Message><RequestId>1</RequestId></Error>"""


class ObjectStore:
    """Counts what it was asked, and answers as it is told.

    Attributes
    ----------
    rule
        Function of method and path: None to forward a request, a status and code to answer with instead, a
        number of seconds to wait before, or "reset" to reset the connection.
    injected
        Requests that the rule had an answer to.
    """

    def __init__(self, backend):
        self.backend = backend
        self.rule = lambda method, path: None
        self.injected, self.asked = [], []
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    def _handler(self):
        store = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True

            def answer(self):
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                store.asked.append((self.command, self.path))
                told = store.rule(self.command, self.path)
                if told is not None:
                    store.injected.append((self.command, self.path))
                if told == "reset":
                    return reset(self)
                if isinstance(told, tuple):
                    status, code = told
                    return give(
                        self, status, {"Content-Type": "application/xml"}, DENIED.format(code=code).encode()
                    )
                time.sleep(told or 0)
                with closing(http.client.HTTPConnection(*store.backend, timeout=30)) as connection:
                    connection.request(self.command, self.path, body, dict(self.headers))
                    response = connection.getresponse()
                    data = response.read()
                return give(self, response.status, dict(response.getheaders()), data)

            def log_message(self, *_):
                pass

        for method in ("GET", "PUT", "POST", "DELETE", "HEAD"):
            setattr(Handler, f"do_{method}", Handler.answer)
        return Handler


def give(handler, status, headers, data):
    """Answer a request."""
    handler.send_response_only(status)
    for name, value in headers.items():
        if name.lower() not in {"content-length", "transfer-encoding", "connection"}:
            handler.send_header(name, value)
    length = headers.get("Content-Length") if handler.command == "HEAD" else None
    handler.send_header("Content-Length", length or str(len(data)))
    handler.end_headers()
    if handler.command != "HEAD":
        handler.wfile.write(data)


def reset(handler):
    """Close the connection of a request so that the client sees it reset."""
    handler.close_connection = True
    handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    handler.connection.close()


@contextmanager
def object_store():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        backend = free.getsockname()
    words = [sys.executable, "-m", "moto.server", "-H", backend[0], "-p", str(backend[1])]
    moto = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        while not _answers(backend):
            assert moto.poll() is None, "moto did not start"
            time.sleep(0.1)
        store = ObjectStore(backend)
        serving = Thread(target=store.server.serve_forever, daemon=True)
        serving.start()
        try:
            yield store
        finally:
            store.server.shutdown()
            store.server.server_close()
            serving.join()
    finally:
        moto.kill()
        moto.wait()


def _answers(address):
    try:
        socket.create_connection(address, timeout=1).close()
    except OSError:
        return False
    return True
