"""A headless Chromium, spoken to through its debugging port."""

import asyncio
import base64
import itertools
import json
import os
import shutil
import subprocess
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path

from tornado.httpclient import AsyncHTTPClient
from tornado.websocket import websocket_connect

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
SECONDS = 120  # at most, also where other work takes the cores


@contextmanager
def chromium():
    """Start it; gives the port."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        options = [
            "--headless=new",
            "--remote-debugging-port=0",
            f"--user-data-dir={profile}",
            "--disable-gpu",
        ]
        options += ["--no-first-run", "--disable-dev-shm-usage", "--disable-background-networking"]
        if os.name == "posix" and os.geteuid() == 0:
            options.append("--no-sandbox")  # which root may not use
        process = subprocess.Popen(
            [CHROMIUM, *options, "about:blank"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        try:
            port, end = Path(profile) / "DevToolsActivePort", time.monotonic() + SECONDS
            while not (port.exists() and port.read_text().strip()):
                assert process.poll() is None
                assert time.monotonic() < end
                time.sleep(0.05)
            yield int(port.read_text().split()[0])
        finally:
            process.terminate()
            process.wait(SECONDS)


def look_at(port, url, width, question, screenshot=None, *, ready="true"):
    """Open a page and wait until it is `ready` (JavaScript), for a live one.

    Gives the answer to `question`, the console's errors, and the requests.
    """
    return asyncio.run(asyncio.wait_for(_look(port, url, width, question, screenshot, ready), SECONDS))


async def _look(port, url, width, question, screenshot, ready):
    listing = await AsyncHTTPClient().fetch(f"http://127.0.0.1:{port}/json")
    address = next(t for t in json.loads(listing.body) if t["type"] == "page")["webSocketDebuggerUrl"]
    page = await websocket_connect(address, max_message_size=2**28)
    numbers, events = itertools.count(1), []

    async def ask(method, **params):
        number = next(numbers)
        await page.write_message(json.dumps({"id": number, "method": method, "params": params}))
        while True:
            answer = json.loads(await page.read_message())
            if answer.get("id") == number:
                assert "error" not in answer, answer
                return answer["result"]
            events.append(answer)

    for domain in ("Page", "Log", "Runtime", "Network"):
        await ask(f"{domain}.enable")
    metrics = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600}
    await ask("Emulation.setDeviceMetricsOverride", **metrics)
    await ask("Page.navigate", url=url)
    while not any(event["method"] == "Page.loadEventFired" for event in events):
        await ask("Runtime.evaluate", expression="0")
    while not (await ask("Runtime.evaluate", expression=f"!!({ready})"))["result"].get("value"):
        await asyncio.sleep(0.05)
    answer = await ask("Runtime.evaluate", expression=f"JSON.stringify({question})", returnByValue=True)
    assert "exceptionDetails" not in answer, answer
    if screenshot is not None:
        taken = await ask("Page.captureScreenshot", captureBeyondViewport=True)
        Path(screenshot).write_bytes(base64.b64decode(taken["data"]))
    page.close()
    errors = [e["params"] for e in events if e["method"] == "Runtime.exceptionThrown"]
    errors += [
        e["params"]["entry"]
        for e in events
        if e["method"] == "Log.entryAdded" and e["params"]["entry"]["level"] in ("error", "warning")
    ]
    errors += [
        e["params"]
        for e in events
        if e["method"] == "Runtime.consoleAPICalled" and e["params"]["type"] in ("error", "assert")
    ]
    asked = [e["params"]["request"]["url"] for e in events if e["method"] == "Network.requestWillBeSent"]
    return json.loads(answer["result"]["value"]), errors, asked
