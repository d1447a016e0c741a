"""Pages of the built documentation in a browser: no errors, nothing from elsewhere, no page too wide."""

from __future__ import annotations

import os
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from browser import CHROMIUM, chromium, look_at

SITE = Path(__file__).parents[2] / "docs" / "_build" / "html"
PAGES = sorted(
    str(path.relative_to(SITE))
    for path in SITE.rglob("*.html")
    if "_static" not in path.relative_to(SITE).parts
)
SHOWN = (
    "index.html",
    "get-started.html",
    "explanation/method.html",
    "reference/command.html",
)  # kept pictures
QUESTION = """{
  overflow: document.documentElement.scrollWidth - window.innerWidth,
  without_alt: [...document.images].filter(image => !image.alt).map(image => image.src),
  broken: [...document.images].filter(image => image.complete && !image.naturalWidth).map(image => image.src),
  title: document.title}"""

pytestmark = [
    pytest.mark.slow,
    pytest.mark.xdist_group("site"),
    pytest.mark.skipif(not PAGES, reason="the documentation is not built: make docs"),
    pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium (Debian: apt install chromium)"),
]


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


@pytest.fixture(scope="module")
def site():
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(SITE)))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture(scope="module")
def port():
    with chromium() as port:
        yield port


@pytest.mark.parametrize("width", [1280, 400])
def test_every_page_opens_without_errors_or_requests_elsewhere(site, port, width, tmp_path):
    kept = Path(os.environ.get("MNNDASK_ARTIFACTS", tmp_path))
    kept.mkdir(parents=True, exist_ok=True)
    found = {}
    for page in PAGES:
        name = f"{page.replace('/', '-').removesuffix('.html')}-{width}.png"
        screenshot = kept / name if page in SHOWN else None
        seen, errors, asked = look_at(port, f"{site}/{page}", width, QUESTION, screenshot)
        elsewhere = [url for url in asked if not url.startswith((site, "data:"))]
        wrong = {
            "errors": errors,
            "elsewhere": elsewhere,
            "without_alt": seen["without_alt"],
            "broken": seen["broken"],
            "overflow": max(seen["overflow"], 0),
            "without_title": not seen["title"],
        }
        if any(wrong.values()):
            found[page] = {key: value for key, value in wrong.items() if value}
    assert not found


def test_search_finds_pages(site, port):
    question = "[...document.querySelectorAll('#search-results li a')].map(a => a.textContent)"
    ready = "document.querySelectorAll('#search-results li').length > 2"
    found, errors, asked = look_at(port, f"{site}/search.html?q=sketch", 1280, question, ready=ready)
    assert "What a sketch is" in found
    assert not errors
    assert all(url.startswith((site, "data:")) for url in asked)
