"""Headless Chromium for tests of pages, driven over its debugging protocol through a WebSocket."""

from __future__ import annotations

import base64
import contextlib
import json
import shutil
import subprocess
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import websocket

EXECUTABLE = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
needs_browser = pytest.mark.skipif(EXECUTABLE is None, reason="no Chromium; `apt-get install chromium` gives one")
FLAGS = ("--headless=new", "--no-sandbox", "--no-first-run", "--disable-background-networking", "--disable-quic",
         "--disable-component-update", "--disable-sync", "--autoplay-policy=no-user-gesture-required",
         "--remote-debugging-port=0", "--remote-allow-origins=*", "--hide-scrollbars", "--mute-audio",
         "--enable-unsafe-swiftshader")  # fmt: skip


class Page:
    """One page: what it logs, asks for and shows. `requests` are all URLs asked for, `errors` what the console had."""

    def __init__(self, address: str):
        self.socket, self.number = websocket.create_connection(address, timeout=60), 0
        self.requests: list[str] = []
        self.errors: list[str] = []
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """A command of the protocol and its answer; events that arrive meanwhile are kept."""
        self.number += 1
        self.socket.send(json.dumps({"id": self.number, "method": method, "params": parameters}))
        while True:
            message = json.loads(self.socket.recv())
            if message.get("id") == self.number:
                assert "error" not in message, (method, message["error"])
                return message["result"]
            self._event(message)

    def _event(self, message: dict[str, Any]) -> None:
        method, facts = message.get("method"), message.get("params", {})
        if method == "Network.requestWillBeSent":
            self.requests.append(facts["request"]["url"])
        elif method == "Runtime.exceptionThrown":
            self.errors.append(str(facts["exceptionDetails"].get("exception", {}).get("description", facts)))
        elif method == "Runtime.consoleAPICalled" and facts["type"] in ("error", "assert"):
            self.errors.append(" ".join(str(a.get("value", a.get("description"))) for a in facts["args"]))
        elif method == "Log.entryAdded" and facts["entry"]["level"] == "error":
            self.errors.append(facts["entry"]["text"])

    def open(self, url: str) -> None:
        """Load a page and wait until it is complete."""
        self.call("Page.navigate", url=url)
        self.wait("document.readyState === 'complete'")

    def run(self, script: str) -> Any:
        """The value of a JavaScript expression; promises are awaited."""
        found = self.call("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in found, found["exceptionDetails"]
        return found["result"].get("value")

    def wait(self, script: str, seconds: float = 30.0) -> Any:
        """The value of an expression as soon as it is true."""
        end = time.monotonic() + seconds
        while not (value := self.run(script)):
            assert time.monotonic() < end, f"not true within {seconds:g} s: {script}; errors: {self.errors}"
            time.sleep(0.1)
        return value

    def click(self, x: float, y: float) -> None:
        """A press and release of the left button at CSS pixels of the window."""
        self.mouse("mouseMoved", x, y)
        for kind in ("mousePressed", "mouseReleased"):
            self.mouse(kind, x, y, button="left", clickCount=1)

    def mouse(self, kind: str, x: float, y: float, **facts: Any) -> None:
        """A mouse event of the protocol: "mouseMoved", "mousePressed", "mouseReleased" or "mouseWheel"."""
        self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, **facts)

    def screenshot(self, file: Path) -> None:
        """Write what the window shows as PNG."""
        file.write_bytes(base64.b64decode(self.call("Page.captureScreenshot")["data"]))

    def outside(self) -> list[str]:
        """The requests that left this machine."""
        local = ("file:", "data:", "blob:", "about:", "devtools:", "http://127.0.0.1", "http://localhost", "ws://127.0.0.1",
                 "ws://localhost")  # fmt: skip
        return [url for url in self.requests if not url.startswith(local)]


@contextlib.contextmanager
def browser(width: int = 1400, height: int = 1000, dark: bool = False) -> Iterator[Page]:
    """A page of a browser of its own, which ends with the block."""
    assert EXECUTABLE is not None
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        command = [EXECUTABLE, *FLAGS, f"--user-data-dir={profile}", f"--window-size={width},{height}", "about:blank"]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            port = Path(profile, "DevToolsActivePort")
            end = time.monotonic() + 60
            while not (port.exists() and port.read_text().strip()):
                assert process.poll() is None, "Chromium did not start"
                assert time.monotonic() < end, "Chromium did not open its debugging port"
                time.sleep(0.1)
            number = port.read_text().split()[0]
            with urllib.request.urlopen(f"http://127.0.0.1:{number}/json") as answer:
                targets = json.load(answer)
            page = Page(next(t["webSocketDebuggerUrl"] for t in targets if t["type"] == "page"))
            if dark:
                features = [{"name": "prefers-color-scheme", "value": "dark"}]
                page.call("Emulation.setEmulatedMedia", features=features)
            yield page
            page.socket.close()
        finally:
            process.terminate()
            process.wait()
