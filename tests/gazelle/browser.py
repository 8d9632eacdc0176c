"""A headless Chromium, driven over a pipe by the Chrome DevTools Protocol, so that no driver need be installed."""

import base64
import contextlib
import fcntl
import json
import os
import shutil
import subprocess
import time

BINARY = next(
    (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None
)
SWITCHES = (
    "--headless=new --no-sandbox --disable-gpu --disable-dev-shm-usage --no-first-run --no-default-browser-check "
    "--disable-background-networking --disable-component-update --disable-extensions --disable-sync --mute-audio "
    "--hide-scrollbars --remote-debugging-pipe"
)
PATIENCE = 20
"""Seconds to wait for anything."""


class Browser:
    """A browser with one page.

    Attributes:
        requests: The address of everything that the page asked for.
        complaints: What it wrote on the console as an error, and its exceptions.
    """

    def __init__(self, folder):
        self.requests, self.complaints = [], []
        self._number, self._answers, self._rest = 0, {}, b""
        theirs_in, self._out = os.pipe()
        self._in, theirs_out = os.pipe()
        ends = [fcntl.fcntl(end, fcntl.F_DUPFD, 10) for end in (theirs_in, theirs_out)]

        def join():  # Chromium reads from 3 and writes to 4
            os.dup2(ends[0], 3)
            os.dup2(ends[1], 4)

        command = [BINARY, *SWITCHES.split(), f"--user-data-dir={folder}/profile", "about:blank"]
        with open(f"{folder}/chromium.log", "wb") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log, close_fds=False, preexec_fn=join)
        for end in (theirs_in, theirs_out, *ends):
            os.close(end)
        page = next(target for target in self.send("Target.getTargets")["targetInfos"] if target["type"] == "page")
        attached = self.send("Target.attachToTarget", targetId=page["targetId"], flatten=True)
        self.session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Network", "Log", "DOM", "Accessibility"):
            self.send(f"{domain}.enable")
        self.send("Browser.setDownloadBehavior", behavior="allow", downloadPath=str(folder))

    session = None

    def send(self, method, **params):
        """Send a command and return its result."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": params}
        if self.session and not method.startswith(("Browser.", "Target.")):
            message["sessionId"] = self.session
        os.write(self._out, json.dumps(message).encode() + b"\0")
        while self._number not in self._answers:
            self._read()
        answer = self._answers.pop(self._number)
        assert "error" not in answer, (method, answer)
        return answer["result"]

    def _read(self):
        chunk = os.read(self._in, 1 << 20)
        assert chunk, "the browser has gone"
        *messages, self._rest = (self._rest + chunk).split(b"\0")
        for message in map(json.loads, messages):
            if "id" in message:
                self._answers[message["id"]] = message
            else:
                self._note(message["method"], message["params"])

    def _note(self, method, params):
        if method == "Network.requestWillBeSent":
            self.requests.append(params["request"]["url"])
        elif method == "Runtime.exceptionThrown":
            self.complaints.append(params["exceptionDetails"])
        elif method == "Runtime.consoleAPICalled" and params["type"] in ("error", "assert"):
            self.complaints.append([argument.get("value", argument) for argument in params["args"]])
        elif method == "Log.entryAdded" and params["entry"]["level"] == "error":
            self.complaints.append(params["entry"])

    def open(self, url, width, height=900, phone=False):
        """Show a page in a window of a size in CSS pixels."""
        self.send("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=phone)
        self.send("Emulation.setTouchEmulationEnabled", enabled=phone)
        self.send("Page.navigate", url=url)

    def js(self, expression):
        """Return the value of an expression in the page."""
        result = self.send("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in result, result["exceptionDetails"]
        return result["result"].get("value")

    def wait(self, expression):
        """Wait until an expression is true, and return its value."""
        end = time.monotonic() + PATIENCE
        while not (value := self.js(expression)):
            assert time.monotonic() < end, f"not in {PATIENCE} s: {expression}; complaints: {self.complaints}"
            time.sleep(0.03)
        return value

    def wait_for(self, condition):
        """Wait until a function of Python returns something true."""
        end = time.monotonic() + PATIENCE
        while not condition():
            assert time.monotonic() < end, f"not in {PATIENCE} s; complaints: {self.complaints}"
            time.sleep(0.03)

    def upload(self, selector, path):
        """Choose a file in a file input."""
        self.wait(f"!!document.querySelector({selector!r})")
        found = self.send("Runtime.evaluate", expression=f"document.querySelector({selector!r})")
        self.send("DOM.setFileInputFiles", files=[str(path)], objectId=found["result"]["objectId"])

    def press(self, key, shift=False):
        """Press a key that is known by its name."""
        codes = {"Tab": 9, "ArrowLeft": 37, "ArrowUp": 38, "ArrowRight": 39, "ArrowDown": 40, "Delete": 46, "Enter": 13}
        text = {"text": "\r"} if key == "Enter" else {}
        event = {"key": key, "code": key, "windowsVirtualKeyCode": codes[key], "modifiers": 8 * shift}
        self.send("Input.dispatchKeyEvent", type="keyDown", **event, **text)
        self.send("Input.dispatchKeyEvent", type="keyUp", **event)

    def drag(self, start, end):
        """Drag the mouse from one point of the window to another."""
        button = {"button": "left", "clickCount": 1}
        middle = [(a + b) / 2 for a, b in zip(start, end, strict=True)]
        self.send("Input.dispatchMouseEvent", type="mousePressed", x=start[0], y=start[1], buttons=1, **button)
        for x, y in (middle, end):
            self.send("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y, button="left", buttons=1)
        self.send("Input.dispatchMouseEvent", type="mouseReleased", x=end[0], y=end[1], buttons=0, **button)

    def touch(self, start, end):
        """Drag a finger from one point of the window to another, in steps, so that the page may begin to scroll."""
        steps = [[a + (b - a) * i / 8 for a, b in zip(start, end, strict=True)] for i in range(1, 9)]
        for kind, place in (("Start", start), *(("Move", step) for step in steps), ("End", None)):
            points = [{"x": place[0], "y": place[1]}] if place else []
            self.send("Input.dispatchTouchEvent", type=f"touch{kind}", touchPoints=points)

    def screenshot(self, path):
        """Write a picture of the whole page."""
        data = self.send("Page.captureScreenshot", captureBeyondViewport=True)["data"]
        with open(path, "wb") as file:
            file.write(base64.b64decode(data))

    def close(self):
        with contextlib.suppress(Exception):
            self.send("Browser.close")
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        for end in (self._in, self._out):
            os.close(end)
