# SPDX-License-Identifier: Apache-2.0
"""Chromium without a window, driven through the DevTools protocol on two pipes."""
from __future__ import annotations

import base64
import fcntl
import json
import os
import select
import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np

DEADLINE_SEC = 60.0
NAMES = ('chromium', 'chromium-browser', 'google-chrome')
# WebGL on the CPU. A file of our own needs no sandbox, which root cannot have.
OPTIONS = ('--headless=new', '--no-sandbox', '--use-angle=swiftshader',
           '--enable-unsafe-swiftshader', '--no-first-run', '--disable-extensions',
           '--disable-background-networking', '--remote-debugging-pipe', '--hide-scrollbars')
# In the protocol's pipe mode Chromium reads from file 3 and writes to file 4.
WRAPPER = 'exec "$@" 3<&{} 4>&{}'
FRAMES = 'new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))'


def find_chromium() -> str | None:
    """Return the path of a browser; None if there is none."""
    return next(filter(None, map(shutil.which, NAMES)), None)


class Chromium:
    """One browser with one page; it records what the page logs and asks for."""

    def __init__(self, program: str, profile: Path) -> None:
        ours, theirs = os.pipe(), os.pipe()  # to the browser, from the browser
        given = [fcntl.fcntl(one, fcntl.F_DUPFD, 10) for one in (ours[0], theirs[1])]
        self._process = subprocess.Popen(
            ['bash', '-c', WRAPPER.format(*given), 'chromium', program, *OPTIONS,
             f'--user-data-dir={profile}', 'about:blank'],
            pass_fds=given, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        for one in (ours[0], theirs[1], *given):
            os.close(one)
        self._write, self._read = ours[1], theirs[0]
        self._rest, self._number, self._session = b'', 0, ''
        self.complaints: list[str] = []
        self.requests: list[str] = []
        self._loaded = 0
        target = self.call('Target.createTarget', url='about:blank')['targetId']
        self._session = self.call('Target.attachToTarget', targetId=target,
                                  flatten=True)['sessionId']
        for domain in ('Runtime', 'Log', 'Network', 'Page'):
            self.call(f'{domain}.enable')

    def close(self) -> None:
        """End the browser."""
        self._process.kill()
        self._process.wait()
        os.close(self._write)
        os.close(self._read)

    def call(self, method: str, **parameters: object) -> dict[str, Any]:
        """Return the result of a command; AssertionError with its error."""
        self._number += 1
        message = {'id': self._number, 'method': method, 'params': parameters}
        if self._session:
            message['sessionId'] = self._session
        os.write(self._write, json.dumps(message).encode() + b'\0')
        answers: list[dict[str, Any]] = []
        self._until(lambda: answers, method, answers)
        assert 'error' not in answers[0], answers[0]
        return answers[0]['result']

    def open(self, url: str, width: int = 720, height: int = 640, dark: bool = False) -> None:
        """Open a page and wait until it is drawn; forget what an earlier one logged."""
        self.call('Emulation.setDeviceMetricsOverride', width=width, height=height,
                  deviceScaleFactor=1, mobile=False)
        self.call('Emulation.setEmulatedMedia', features=[
            {'name': 'prefers-color-scheme', 'value': 'dark' if dark else 'light'}])
        self.complaints, self.requests = [], []
        before = self._loaded
        self.call('Page.navigate', url=url)
        self._until(lambda: self._loaded > before, f'loading {url}')
        self.evaluate(FRAMES)

    def evaluate(self, expression: str) -> Any:  # noqa: ANN401
        """Return the value of a JavaScript expression, of its result if it is a promise."""
        found = self.call('Runtime.evaluate', expression=expression, awaitPromise=True,
                          returnByValue=True)
        assert 'exceptionDetails' not in found, found
        return found['result'].get('value')

    def wait_for(self, expression: str) -> None:
        """Wait until a JavaScript expression is true."""
        deadline_sec = time.monotonic() + DEADLINE_SEC
        while not self.evaluate(expression):
            assert time.monotonic() < deadline_sec, f'not in time: {expression}'
            self.evaluate(FRAMES)

    def box(self, selector: str) -> tuple[float, float, float, float]:
        """Return left, top, width and height of an element, scrolled into view."""
        return tuple(self.evaluate(
            f'(() => {{const one = document.querySelector({json.dumps(selector)});'
            "one.scrollIntoView({block: 'center', behavior: 'instant'});"
            'const box = one.getBoundingClientRect();'
            'return [box.left, box.top, box.width, box.height]})()'))

    def picture(self, selector: str = '') -> np.ndarray:
        """Return the visible page, or one element of it, as uint8 [h, w, 3], BGR."""
        box = self.box(selector) if selector else None
        self.evaluate(FRAMES)
        data = base64.b64decode(self.call('Page.captureScreenshot', format='png')['data'])
        image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
        if box is None:
            return image
        left, top, width, height = (round(one) for one in box)
        return image[max(top, 0):top + height, max(left, 0):left + width]

    def drag(self, start: tuple[float, float], end: tuple[float, float]) -> None:
        """Press the mouse, move it and release it."""
        middle = tuple((a + b) / 2 for a, b in zip(start, end, strict=True))
        for kind, (x, y), buttons in (('mousePressed', start, 1), ('mouseMoved', middle, 1),
                                      ('mouseMoved', end, 1), ('mouseReleased', end, 0)):
            self.call('Input.dispatchMouseEvent', type=kind, x=x, y=y, button='left',
                      buttons=buttons, clickCount=1)

    def _until(self, condition: Callable[[], object], what: str,
               answers: list[dict[str, Any]] | None = None) -> None:
        deadline_sec = time.monotonic() + DEADLINE_SEC
        while not condition():
            while b'\0' not in self._rest:
                left_sec = deadline_sec - time.monotonic()
                assert left_sec > 0 and select.select([self._read], [], [], left_sec)[0], (
                    f'Chromium did not answer in time: {what}')
                more = os.read(self._read, 1 << 20)
                assert more, f'Chromium ended during: {what}'
                self._rest += more
            text, _, self._rest = self._rest.partition(b'\0')
            message = json.loads(text)
            if 'method' in message:
                self._note(message['method'], message['params'])
            elif answers is not None and message['id'] == self._number:
                answers.append(message)

    def _note(self, method: str, event: dict[str, Any]) -> None:
        if method == 'Page.loadEventFired':
            self._loaded += 1
        elif method == 'Network.requestWillBeSent':
            self.requests.append(event['request']['url'])
        elif method == 'Runtime.exceptionThrown':
            self.complaints.append(json.dumps(event['exceptionDetails']))
        elif method == 'Runtime.consoleAPICalled' and event['type'] in ('error', 'warning'):
            self.complaints.append(json.dumps(event['args']))
        elif method == 'Log.entryAdded' and event['entry']['level'] in ('error', 'warning'):
            self.complaints.append(event['entry']['text'])
