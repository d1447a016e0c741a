"""Pages of the built documentation in a browser: no errors, nothing from elsewhere, no page too wide."""

from __future__ import annotations

import os
import threading
from functools import partial
from html.parser import HTMLParser
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

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
]
in_a_browser = pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium (Debian: apt install chromium)")


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


class Links(HTMLParser):
    """What a page links to, and the places in it that can be linked to."""

    def __init__(self, text):
        super().__init__()
        self.targets, self.places = [], set()
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        self.targets += [attrs[name] for name in ("href", "src") if attrs.get(name)]
        self.places.add(attrs.get("id"))


def test_every_link_inside_leads_to_a_place():
    pages = {page: Links((SITE / page).read_text()) for page in PAGES}

    def leads(page, target):
        parts = urlsplit(target)
        if parts.scheme or parts.netloc:
            return True
        path = os.path.normpath(Path(page).parent / unquote(parts.path)) if parts.path else page
        place = unquote(parts.fragment)
        return (SITE / path).exists() and (not place or path not in pages or place in pages[path].places)

    broken = [(page, to) for page, links in pages.items() for to in links.targets if not leads(page, to)]
    assert not broken


def test_every_page_of_the_interface_has_a_signature():
    pages = sorted((SITE / "reference" / "generated").glob("*.html"))
    assert len(pages) > 20
    assert [page.name for page in pages if 'class="sig ' not in page.read_text()] == []


@in_a_browser
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


@in_a_browser
def test_search_finds_pages(site, port):
    question = "[...document.querySelectorAll('#search-results li a')].map(a => a.textContent)"
    ready = "document.querySelectorAll('#search-results li').length > 2"
    found, errors, asked = look_at(port, f"{site}/search.html?q=sketch", 1280, question, ready=ready)
    assert "What a sketch is" in found
    assert not errors
    assert all(url.startswith((site, "data:")) for url in asked)
