"""A real headless Chromium, driven over its DevTools pipe with the standard library alone."""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--remote-debugging-pipe",
)
# Chromium reads commands from file descriptor 3 and answers on 4; both may be taken before the program is replaced.
SHIM = """
import os, sys
reads, writes = os.dup2(int(sys.argv[1]), 1000), os.dup2(int(sys.argv[2]), 1001)
os.dup2(reads, 3), os.dup2(writes, 4), os.close(reads), os.close(writes)
os.execv(sys.argv[3], sys.argv[3:])
"""
TRACED = ("Runtime.consoleAPICalled", "Runtime.exceptionThrown", "Log.entryAdded")


def find_chromium() -> str | None:
    """The program, if one is installed."""
    return next((path for name in NAMES if (path := shutil.which(name))), None)


class Page:
    """One page in a browser. ``requests`` are the addresses it asked for, ``complaints`` its console's errors."""

    def __init__(self, browser: Browser, session: str) -> None:
        self._browser, self._session = browser, session
        self.requests: list[str] = []
        self.complaints: list[Any] = []
        for domain in ("Page", "Runtime", "Log", "Network", "DOM"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **parameters: Any) -> Any:
        """A DevTools command's result."""
        return self._browser.call(method, parameters, self._session, self._note)

    def size(self, width: int, height: int = 900) -> None:
        """Of the window, in CSS pixels."""
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 500}
        self.call("Emulation.setDeviceMetricsOverride", **metrics)

    def colour_scheme(self, name: str) -> None:
        """``light`` or ``dark``."""
        self.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": name}])

    def scripts(self, allowed: bool) -> None:
        """Whether pages may run them."""
        self.call("Emulation.setScriptExecutionDisabled", value=not allowed)

    def open(self, path: Path) -> None:
        """Load a file and wait until all of it is there."""
        self.visit(path.as_uri())

    def visit(self, url: str) -> None:
        """Load an address and wait until all of it is there."""
        self.call("Page.navigate", url=url)
        self._browser.wait_for("Page.loadEventFired", self._session, self._note)

    def value(self, expression: str) -> Any:
        """What JavaScript gives, as plain data."""
        found = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in found:
            raise RuntimeError(found["exceptionDetails"])
        return found["result"].get("value")

    def boxes(self, selector: str) -> list[tuple[float, float]]:
        """Width and height of each element that is laid out; needs no scripts."""
        root = self.call("DOM.getDocument")["root"]["nodeId"]
        nodes = self.call("DOM.querySelectorAll", nodeId=root, selector=selector)["nodeIds"]
        models = (self.call("DOM.getBoxModel", nodeId=node)["model"] for node in nodes)
        return [(model["width"], model["height"]) for model in models]

    def choose_file(self, selector: str, path: Path) -> None:
        """Put a file into a file input."""
        root = self.call("DOM.getDocument")["root"]["nodeId"]
        node = self.call("DOM.querySelector", nodeId=root, selector=selector)["nodeId"]
        self.call("DOM.setFileInputFiles", nodeId=node, files=[str(path)])

    def type(self, text: str) -> None:
        """Into what has the focus."""
        self.call("Input.insertText", text=text)

    def click(self, x: float, y: float) -> None:
        """With the left button, at a place of the window."""
        for kind in ("mousePressed", "mouseReleased"):
            self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def key(self, name: str) -> None:
        """Press and release a key."""
        for kind in ("keyDown", "keyUp"):
            self.call("Input.dispatchKeyEvent", type=kind, key=name, code=name)

    def screenshot(self, path: Path, *, whole: bool = True) -> None:
        """The page as a PNG file."""
        data = self.call("Page.captureScreenshot", captureBeyondViewport=whole)["data"]
        path.write_bytes(base64.b64decode(data))

    def _note(self, event: dict[str, Any]) -> None:
        if event.get("sessionId") != self._session:
            return
        parameters = event["params"]
        if event["method"] == "Network.requestWillBeSent":
            self.requests.append(parameters["request"]["url"])
        elif event["method"] in TRACED:
            self.complaints.append(parameters)


class Browser:
    """The browser's end of the pipe."""

    def __init__(self, reads: int, writes: int) -> None:
        self._in, self._out = os.fdopen(reads, "rb"), os.fdopen(writes, "wb")
        self._rest, self._number = b"", 0
        self._seen: list[dict[str, Any]] = []

    def page(self) -> Page:
        """A new, empty page."""
        target = self.call("Target.createTarget", {"url": "about:blank"})["targetId"]
        session = self.call("Target.attachToTarget", {"targetId": target, "flatten": True})["sessionId"]
        return Page(self, session)

    def call(self, method: str, parameters: dict[str, Any], session: str | None = None, note: Any = None) -> Any:
        """Send a command, wait for its answer, hand events to ``note`` meanwhile."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters}
        if session is not None:
            message["sessionId"] = session
        self._out.write(json.dumps(message).encode() + b"\0")
        self._out.flush()
        while (answer := self._receive(note)).get("id") != self._number:
            pass
        if "error" in answer:
            raise RuntimeError(f"{method}: {answer['error']['message']}")
        return answer["result"]

    def wait_for(self, event: str, session: str, note: Any) -> None:
        """Until an event comes, or has come since the last wait."""
        while not any(e["method"] == event and e.get("sessionId") == session for e in self._seen):
            self._receive(note)
        self._seen.clear()

    def close(self) -> None:
        """Ask it to end."""
        self._number += 1
        self._out.write(json.dumps({"id": self._number, "method": "Browser.close"}).encode() + b"\0")
        self._out.close()
        self._in.close()

    def _receive(self, note: Any) -> dict[str, Any]:
        while b"\0" not in self._rest:
            piece = os.read(self._in.fileno(), 1 << 16)
            if not piece:
                raise RuntimeError("the browser has ended")
            self._rest += piece
        text, _, self._rest = self._rest.partition(b"\0")
        message: dict[str, Any] = json.loads(text)
        if "method" in message:
            self._seen.append(message)
            if note is not None:
                note(message)
        return message


@contextmanager
def chromium(program: str, profile: Path) -> Iterator[Browser]:
    """Run the browser with a new profile folder."""
    commands, to_browser = os.pipe()
    from_browser, answers = os.pipe()
    start = [sys.executable, "-c", SHIM, str(commands), str(answers), program, *FLAGS, f"--user-data-dir={profile}"]
    process = subprocess.Popen(
        start, pass_fds=(commands, answers), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    os.close(commands)
    os.close(answers)
    browser = Browser(from_browser, to_browser)
    try:
        yield browser
    finally:
        browser.close()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
