"""A web server of a folder, which gives a listing or some answer where no file is."""

from __future__ import annotations

from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from pathlib import Path
from threading import Thread

PAGE = b"<html><body>Nothing to see, and no links.</body></html>"


class Handler(SimpleHTTPRequestHandler):
    """Gives files of its folder, and where none is, a listing or some answer."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # answers of two parts would wait for 40 ms between them

    def __init__(self, *args, how, **options):
        self.how = how
        super().__init__(*args, **options)

    def send_head(self):
        if self.how == "lists" or Path(self.translate_path(self.path)).is_file():
            return super().send_head()
        self.send_response(int(self.how))
        self.send_header("Content-Length", str(len(PAGE)))
        self.end_headers()
        return BytesIO(PAGE)

    def log_message(self, *_):
        pass


class Server(ThreadingHTTPServer):
    """Says nothing of clients that hang up."""

    daemon_threads = True

    def handle_error(self, request, client_address):
        pass


@contextmanager
def serving(folder, how):
    server = Server(("127.0.0.1", 0), partial(Handler, directory=str(folder), how=how))
    thread = Thread(target=server.serve_forever, args=(0.02,), daemon=True)  # how soon it ends
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
