# SPDX-License-Identifier: Apache-2.0
"""A page that shows a map while it grows, served to browsers of this machine only."""
from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Event, Lock, Thread
from time import monotonic

import numpy as np

from .map_scene import MapScene, data_url
from .report_page import VIEWER, page

HOST = '127.0.0.1'
PORT = 8090
MOST_LIVE_POINTS = 500_000
# A page that has not asked for so long is closed.
WATCHED_SEC = 3.0
# An open page has so long to take the last state, before the server ends.
LAST_SEC = 5.0
TITLE = 'Live map'
DEFAULT_HALF = (0.6, 0.45)

logger = logging.getLogger(__name__)

BODY = f"""
<header><h1>{TITLE}</h1><p id="state" role="status">waiting for the map</p></header>
<main>{VIEWER}</main>"""


class PortError(ValueError):
    """A port that the live view cannot use."""


@dataclass(frozen=True)
class Camera:
    """The newest camera: its pose [4, 4] in the map, its image as JPEG, both None if not known.

    `half` are the tangents of half the angles of view, across and down.
    """

    map_from_camera: np.ndarray | None = None
    jpeg: bytes | None = None
    half: tuple[float, float] = DEFAULT_HALF


class LiveServer:
    """Keeps the newest map, path and camera for the pages that ask for them.

    Its methods may be called from any thread; `show_map` encodes the points on the caller's.
    Only the newest of everything is kept. Raises PortError for a port that cannot be used; port 0
    is any free one.
    """

    def __init__(self, port: int = PORT) -> None:
        try:
            self._server = ThreadingHTTPServer((HOST, port), _handler(self))
        except (OSError, OverflowError) as error:
            raise PortError(f'port {port} of {HOST} cannot be used for the live view: '
                            f'{error}; choose another one') from error
        self._server.daemon_threads = True
        self._lock = Lock()
        self._asked_sec = -np.inf
        self._version = 0
        self._map = b'null'
        self._camera = Camera()
        self._counts: Sequence[tuple[str, str]] = ()
        self._ended, self._last_taken = False, Event()
        self._page = page(TITLE, BODY, ['viewer.js', 'live.js'], {}, connect="'self'").encode()
        self._thread = Thread(target=self._server.serve_forever, name='live_view', daemon=True)
        self._thread.start()

    @property
    def url(self) -> str:
        """Return the address of the page."""
        return f'http://{HOST}:{self._server.server_address[1]}/'

    @property
    def is_watched(self) -> bool:
        """Return whether a page has asked lately."""
        return monotonic() - self._asked_sec < WATCHED_SEC

    def show_map(self, scene: MapScene) -> None:
        """Show another map and path; beyond `MOST_LIVE_POINTS` points are left out."""
        encoded = json.dumps(scene.entry(MOST_LIVE_POINTS), separators=(',', ':')).encode()
        with self._lock:
            self._map = encoded
            self._version += 1

    def show_camera(self, camera: Camera) -> None:
        """Show another camera and image."""
        with self._lock:
            self._camera = camera

    def show_counts(self, counts: Sequence[tuple[str, str]]) -> None:
        """Show other counts: names and values."""
        with self._lock:
            self._counts = counts

    def end(self) -> None:
        """Let the page say that the run has ended."""
        with self._lock:
            self._ended = True

    def close(self) -> None:
        """End the server; pages keep what they have, after `end` the last state."""
        if self._ended and self.is_watched:
            self._last_taken.wait(LAST_SEC)
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def answer(self, path: str) -> tuple[str, bytes] | None:
        """Return type and content of a path; None for another one."""
        if path == '/':
            return 'text/html; charset=utf-8', self._page
        self._asked_sec = monotonic()
        with self._lock:
            if path == '/map':
                return 'application/json', self._map
            name, _, have = path.partition('?have=')
            if name == '/state':
                if self._ended and have == str(self._version):
                    self._last_taken.set()
                return 'application/json', self._state()
        return None

    def _state(self) -> bytes:
        camera, pose = self._camera, self._camera.map_from_camera
        return json.dumps({
            'version': self._version, 'ended': self._ended, 'counts': list(self._counts),
            'camera': None if pose is None else {'pose': np.round(pose[:3], 5).tolist(),
                                                 'half': camera.half},
            'image': None if camera.jpeg is None else data_url(camera.jpeg)}).encode()


def _handler(server: LiveServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = 'HTTP/1.1'
        timeout = 30

        def do_GET(self) -> None:  # noqa: N802
            # Another site whose name was made to lead to this machine has its own name here.
            host = (self.headers.get('Host') or '').rpartition(':')[0]
            if host not in (HOST, 'localhost'):
                self.send_error(HTTPStatus.FORBIDDEN)
                return
            found = server.answer(self.path)
            if found is None:
                self.send_error(HTTPStatus.NOT_FOUND)
                return
            self.send_response(HTTPStatus.OK)
            self.send_header('Content-Type', found[0])
            self.send_header('Content-Length', str(len(found[1])))
            self.send_header('Cache-Control', 'no-store')
            self.end_headers()
            try:
                self.wfile.write(found[1])
            except ConnectionError:
                self.close_connection = True

        def log_message(self, *arguments: object) -> None:
            logger.debug('live view: %s', arguments)

    return Handler
