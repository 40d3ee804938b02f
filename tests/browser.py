"""A headless Chromium that tests can click and type in, told what to do over its DevTools pipe."""

from __future__ import annotations

import base64
import itertools
import json
import queue
import shutil
import subprocess
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from tests.pages import BROWSERS

PATIENCE = 60
"""Seconds until what should come is taken for absent; machines of tests are busy."""
KEYS = {" ": "Space"}


class Browser:
    """One Chromium with a profile of its own.

    It reads commands from descriptor 3 and answers on 4, which the shell makes of the ordinary two.
    """

    def __init__(self, program: str, profile: Path):
        options = ["--headless", "--no-sandbox", "--disable-gpu", "--remote-debugging-pipe"]
        options += [f"--user-data-dir={profile}", "--no-first-run", "--disable-extensions"]
        self._process = subprocess.Popen(
            ["sh", "-c", 'exec "$@" 3<&0 4>&1 </dev/null >/dev/null 2>&1', "sh", program, *options],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        )  # fmt: skip
        self._numbers = itertools.count(1)
        self._answers: dict[int, queue.Queue[dict[str, Any]]] = {}
        self.events: list[dict[str, Any]] = []
        self._listener = threading.Thread(target=self._listen, daemon=True)
        self._listener.start()

    def _listen(self) -> None:
        left = b""
        while data := self._process.stdout.read1():
            *whole, left = (left + data).split(b"\0")
            for message in map(json.loads, whole):
                if "id" in message:
                    self._answers[message["id"]].put(message)
                else:
                    self.events.append(message)

    def send(self, method: str, session: str | None = None, **params: Any) -> dict[str, Any]:
        """A command's result."""
        number = next(self._numbers)
        answer = self._answers[number] = queue.Queue()
        message = {"id": number, "method": method, "params": params}
        if session:
            message["sessionId"] = session
        self._process.stdin.write(json.dumps(message).encode() + b"\0")
        self._process.stdin.flush()
        found = answer.get(timeout=PATIENCE)
        assert "error" not in found, f"{method}: {found.get('error')}"
        return found["result"]

    def tab(self) -> Tab:
        return Tab(self)

    def close(self) -> None:
        self._process.terminate()
        self._process.wait(timeout=PATIENCE)
        self._listener.join()
        for pipe in (self._process.stdin, self._process.stdout):
            pipe.close()


class Tab:
    """A page of its own; cookies and storage are nobody else's."""

    def __init__(self, browser: Browser):
        self.browser = browser
        self.context = browser.send("Target.createBrowserContext")["browserContextId"]
        target = browser.send(
            "Target.createTarget", url="about:blank", browserContextId=self.context
        )
        self.session = browser.send(
            "Target.attachToTarget", targetId=target["targetId"], flatten=True
        )["sessionId"]
        for domain in ("Page", "Runtime", "Network", "Log", "DOM"):
            self.send(f"{domain}.enable")
        # Workers ask for files too.
        self.send(
            "Target.setAutoAttach", autoAttach=True, waitForDebuggerOnStart=True, flatten=True
        )
        self._seen = 0

    def send(self, method: str, **params: Any) -> dict[str, Any]:
        return self.browser.send(method, self.session, **params)

    def open(self, url: str) -> None:
        self.send("Page.navigate", url=url)
        self.wait("document.readyState === 'complete' && location.href !== 'about:blank'")

    def run(self, expression: str) -> Any:
        """The value of JavaScript, promises awaited."""
        self._start_workers()
        found = self.send(
            "Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True,
            userGesture=True,
        )  # fmt: skip
        assert "exceptionDetails" not in found, found["exceptionDetails"]
        return found["result"].get("value")

    def wait(self, condition: str) -> Any:
        """The first true value of JavaScript."""
        end = time.monotonic() + PATIENCE
        while time.monotonic() < end:
            if found := self.run(condition):
                return found
            time.sleep(0.05)
        raise AssertionError(f"never came true: {condition}; the page: {self.text('body')}")

    def text(self, selector: str) -> str:
        return self.run(f"document.querySelector({json.dumps(selector)}).innerText")

    def click(self, selector: str) -> None:
        """A mouse click in the middle of an element."""
        box = self.run(
            f"(() => {{ const e = document.querySelector({json.dumps(selector)});"
            "e.scrollIntoView({block: 'center', inline: 'center'});"
            "const b = e.getBoundingClientRect();"
            "return [b.x + b.width / 2, b.y + b.height / 2] })()"
        )
        for kind in ("mousePressed", "mouseReleased"):
            self.send(
                "Input.dispatchMouseEvent", type=kind, x=box[0], y=box[1], button="left",
                clickCount=1,
            )  # fmt: skip

    def press(self, key: str) -> None:
        """A key by its name, as in KeyboardEvent.key."""
        names = {"key": key, "code": KEYS.get(key, key)}
        codes = {
            "Tab": 9, "Enter": 13, " ": 32, "PageUp": 33, "PageDown": 34, "End": 35, "Home": 36,
            "ArrowLeft": 37, "ArrowUp": 38, "ArrowRight": 39, "ArrowDown": 40,
        }  # fmt: skip
        names["windowsVirtualKeyCode"] = codes[key]
        text = {"text": key} if key == " " else {}
        self.send("Input.dispatchKeyEvent", type="keyDown", **names, **text)
        self.send("Input.dispatchKeyEvent", type="keyUp", **names)

    def choose(self, selector: str, path: Path) -> None:
        """Give a file to a file input."""
        root = self.send("DOM.getDocument")["root"]["nodeId"]
        node = self.send("DOM.querySelector", nodeId=root, selector=selector)["nodeId"]
        self.send("DOM.setFileInputFiles", nodeId=node, files=[str(path)])

    def drop(self, path: Path, x: int = 200, y: int = 200) -> None:
        """Drag a file from elsewhere onto the page."""
        data = {"items": [], "files": [str(path)], "dragOperationsMask": 1}
        for kind in ("dragEnter", "dragOver", "drop"):
            self.send("Input.dispatchDragEvent", type=kind, x=x, y=y, data=data)

    def resize(self, width: int, height: int = 900, *, dark: bool = False) -> None:
        self.send(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1,
            mobile=False,
        )  # fmt: skip
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.send("Emulation.setEmulatedMedia", features=[scheme])

    def picture(self, path: Path) -> None:
        """The whole page as PNG."""
        data = self.send("Page.captureScreenshot", captureBeyondViewport=True)["data"]
        path.write_bytes(base64.b64decode(data))

    def download_into(self, folder: Path) -> None:
        self.browser.send(
            "Browser.setDownloadBehavior", behavior="allow", downloadPath=str(folder),
            browserContextId=self.context,
        )  # fmt: skip

    def requests(self) -> list[str]:
        """Every address that the page and its workers have asked for, blocked or not."""
        return [
            event["params"]["request"]["url"]
            for event in self._events()
            if event["method"] == "Network.requestWillBeSent"
        ]

    def complaints(self) -> list[str]:
        """Errors of the page's own and of its policy."""
        found = []
        for event in self._events():
            params = event["params"]
            if event["method"] == "Runtime.exceptionThrown":
                found.append(json.dumps(params["exceptionDetails"]))
            if event["method"] == "Log.entryAdded" and params["entry"]["level"] == "error":
                found.append(json.dumps(params["entry"]))
        return found

    def _events(self) -> list[dict[str, Any]]:
        own = {self.session, *self._workers()}
        return [event for event in self.browser.events if event.get("sessionId") in own]

    def _workers(self) -> list[str]:
        return [
            event["params"]["sessionId"]
            for event in self.browser.events
            if event["method"] == "Target.attachedToTarget"
            and event.get("sessionId") == self.session
        ]

    def _start_workers(self) -> None:
        """Workers wait until their requests are listened to."""
        for session in self._workers()[self._seen :]:
            self._seen += 1
            for method in ("Network.enable", "Runtime.enable", "Runtime.runIfWaitingForDebugger"):
                self.browser.send(method, session)

    def close(self) -> None:
        self.browser.send("Target.disposeBrowserContext", browserContextId=self.context)


@pytest.fixture(scope="session")
def browser(tmp_path_factory):
    """A running Chromium, or a skip."""
    program = next(filter(None, map(shutil.which, BROWSERS)), None)
    if program is None:
        pytest.skip("no Chromium here to show the page in")
    found = Browser(program, tmp_path_factory.mktemp("profile"))
    try:
        found.send("Browser.getVersion")
    except (queue.Empty, OSError):
        found.close()
        pytest.skip(f"{program} does not start here")
    yield found
    found.close()


@pytest.fixture
def tab(browser):
    made = browser.tab()
    yield made
    made.close()
