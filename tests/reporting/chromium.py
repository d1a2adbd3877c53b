"""Opens a page in headless Chromium over the DevTools protocol and records what it did."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import websocket

NAMES = ("chromium", "chromium-browser", "google-chrome")
FLAGS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-quic",
    "--remote-debugging-port=0",
)
SETTLE = 0.3  # seconds after the load event in which late requests would come


@dataclass
class PageRecord:
    """What a page did while it was opened."""

    console_errors: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)
    dialogs: list[str] = field(default_factory=list)
    title: str = ""
    text: str = ""
    layout: dict[str, int] = field(default_factory=dict)
    """Widths in CSS pixels: the window's, and the page's with what overflows it."""

    def note(self, method: str, params: dict[str, Any]) -> None:
        """Keep what matters of one DevTools event."""
        match method:
            case "Network.requestWillBeSent":
                self.requests.append(params["request"]["url"])
            case "Log.entryAdded" if params["entry"]["level"] == "error":
                self.console_errors.append(params["entry"]["text"])
            case "Runtime.consoleAPICalled" if params["type"] in ("error", "assert"):
                self.console_errors.append(json.dumps(params["args"]))
            case "Runtime.exceptionThrown":
                self.console_errors.append(params["exceptionDetails"]["text"])
            case "Page.javascriptDialogOpening":
                self.dialogs.append(params["message"])


def find_chromium() -> str | None:
    """The browser's executable, None where there is none."""
    return next(filter(None, map(shutil.which, NAMES)), None)


def open_page(
    path: Path,
    *,
    width: int = 1200,
    scripts: bool = True,
    visit: Callable[[Tab], None] | None = None,
    timeout: float = 60,
) -> PageRecord:
    """Open a local file and wait until it has loaded and settled.

    Args:
        path: the HTML file.
        width: of the window, in CSS pixels.
        scripts: whether the page may run any.
        visit: what to do on the page then, before its text is recorded.
        timeout: for everything together, in seconds.

    Raises:
        TimeoutError: if the browser takes longer, saying what it was waited for.
    """
    deadline = time.monotonic() + timeout
    record = PageRecord()
    with _browser(deadline) as address, closing(_connect(address, deadline)) as socket:
        tab = Tab(socket, record, deadline)
        target = tab.call("Target.createTarget", url="about:blank")["targetId"]
        attached = tab.call("Target.attachToTarget", targetId=target, flatten=True)
        tab.session = attached["sessionId"]
        for domain in ("Network", "Log", "Runtime", "Page"):
            tab.call(f"{domain}.enable")
        tab.call("Emulation.setDeviceMetricsOverride", width=width, height=900,
                 deviceScaleFactor=1, mobile=width < 600)  # fmt: skip
        tab.call("Emulation.setScriptExecutionDisabled", value=not scripts)
        tab.call("Performance.enable", timeDomain="threadTicks")
        tab.call("Page.navigate", url=path.resolve().as_uri())
        tab.wait_for("Page.loadEventFired")
        time.sleep(SETTLE)
        if visit is not None:
            visit(tab)
        record.title = tab.evaluate("document.title")
        record.text = tab.evaluate("document.body.textContent")
        record.layout = tab.evaluate(
            "({window: innerWidth, page: document.documentElement.scrollWidth})"
        )
    return record


class Tab:
    """One DevTools session: calls, and events noted in the record as they arrive."""

    def __init__(self, socket: websocket.WebSocket, record: PageRecord, deadline: float) -> None:
        self.socket, self.record, self.deadline = socket, record, deadline
        self.session: str | None = None
        self.last_id = 0
        self.seen: set[str] = set()

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        sent = self._send(method, params)
        while True:
            message = self._receive(method)
            if message.get("id") == sent:
                assert "error" not in message, f"{method}: {message['error']}"
                return message["result"]

    def wait_for(self, event: str) -> None:
        while event not in self.seen:
            self._receive(event)

    def evaluate(self, expression: str) -> Any:
        """The value of a JavaScript expression, also where the page's own scripts may not run."""
        answer = self.call("Runtime.evaluate", expression=expression, awaitPromise=True,
                           returnByValue=True)  # fmt: skip
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    @property
    def busy(self) -> float:
        """Seconds for which the page has kept the processor busy, whatever else the machine did."""
        metrics = self.call("Performance.getMetrics")["metrics"]
        return next(m["value"] for m in metrics if m["name"] == "TaskDuration")

    def press(self, key: str) -> None:
        """A key on whatever has the focus: "Enter" or a single letter."""
        text, code = ("\r", 13) if key == "Enter" else (key, 0)
        for kind in ("keyDown", "keyUp"):
            self.call("Input.dispatchKeyEvent", type=kind, key=key, windowsVirtualKeyCode=code,
                      **({"text": text} if kind == "keyDown" else {}))  # fmt: skip

    def click(self, selector: str) -> None:
        """The mouse on the middle of the first element that matches."""
        x, y = self.evaluate(
            f"(e => {{ e.scrollIntoView({{block: 'center', inline: 'center'}});"
            " const r = e.getBoundingClientRect();"
            " return [r.x + r.width / 2, r.y + r.height / 2]; }"
            f")(document.querySelector({json.dumps(selector)}))"
        )
        for kind in ("mousePressed", "mouseReleased"):
            self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def _send(self, method: str, params: dict[str, Any]) -> int:
        self.last_id += 1
        message = {"id": self.last_id, "method": method, "params": params}
        if self.session:
            message["sessionId"] = self.session
        self.socket.send(json.dumps(message))
        return self.last_id

    def _receive(self, awaited: str) -> dict[str, Any]:
        self.socket.settimeout(_remaining(self.deadline, awaited))
        try:
            message: dict[str, Any] = json.loads(self.socket.recv())
        except websocket.WebSocketTimeoutException:
            raise TimeoutError(f"Chromium did not answer in time: {awaited}") from None
        if "method" in message:
            self.seen.add(message["method"])
            self.record.note(message["method"], message["params"])
        if message.get("method") == "Page.javascriptDialogOpening":  # it would block the page
            self._send("Page.handleJavaScriptDialog", {"accept": True})
        return message


def _connect(address: str, deadline: float) -> websocket.WebSocket:
    # Chromium refuses unknown origins; no origin at all is a local tool.
    timeout = _remaining(deadline, "connection")
    return websocket.create_connection(address, timeout=timeout, suppress_origin=True)


@contextmanager
def _browser(deadline: float) -> Iterator[str]:
    """The DevTools address of a fresh browser, which is gone with all its children afterwards."""
    executable = find_chromium()
    assert executable, "no Chromium"
    with tempfile.TemporaryDirectory(prefix="chromium-", ignore_cleanup_errors=True) as profile:
        process = subprocess.Popen(
            [executable, *FLAGS, f"--user-data-dir={profile}", "about:blank"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        try:
            yield _address(process, Path(profile) / "DevToolsActivePort", deadline)
        finally:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def _address(process: subprocess.Popen[bytes], announced: Path, deadline: float) -> str:
    """Chromium writes its port and path into its profile, in two lines, once it listens."""
    while True:
        lines = announced.read_text().splitlines() if announced.exists() else []
        if len(lines) == 2:
            return f"ws://127.0.0.1:{lines[0]}{lines[1]}"
        assert process.poll() is None, f"Chromium ended with code {process.returncode}"
        _remaining(deadline, "start")
        time.sleep(0.05)


def _remaining(deadline: float, awaited: str) -> float:
    remaining = deadline - time.monotonic()
    if remaining <= 0:
        raise TimeoutError(f"Chromium did not answer in time: {awaited}")
    return remaining
