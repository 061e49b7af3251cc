# SPDX-License-Identifier: Apache-2.0
"""Processes that end with their owner, and a DDS domain of their own to talk on."""
from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

# Domains below 101 keep their ports under the system's own range.
DOMAINS = range(40, 100)
DOMAIN_LOCK_PORT = 22_000
STOP_SEC = 10.0


class ProcessError(RuntimeError):
    """A process cannot go on, or cannot be waited for; the message says why."""


@contextmanager
def private_domain() -> Iterator[int]:
    """Reserve a DDS domain no other demo on this machine has; yields its number."""
    start = os.getpid() % len(DOMAINS)
    for domain in (*DOMAINS[start:], *DOMAINS[:start]):
        with socket.socket() as lock:
            try:
                lock.bind(('127.0.0.1', DOMAIN_LOCK_PORT + domain))
            except OSError:
                continue
            yield domain
            return
    raise ProcessError('no free ROS domain: too many demos run on this machine')


def resident_bytes(pid: int) -> int:
    """Return how much memory a process holds now (Linux)."""
    pages = int(Path(f'/proc/{pid}/statm').read_text().split()[1])
    return pages * os.sysconf('SC_PAGE_SIZE')


class Child:
    """A process in a group of its own whose output goes to a log; ended with the context."""

    def __init__(self, command: Sequence[str], log: Path) -> None:
        self._log = log
        self._name = log.stem
        with log.open('w') as file:
            self._process = subprocess.Popen(
                [sys.executable, *command], stdout=file, stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL, start_new_session=True)

    @property
    def status(self) -> int | None:
        """Return the exit status, None while it runs."""
        return self._process.poll()

    @property
    def resident_bytes(self) -> int:
        """Return how much memory the process holds now."""
        return resident_bytes(self._process.pid)

    def check(self) -> None:
        """Raise ProcessError if the process has ended badly."""
        if self.status:
            raise self.failure(f'ended with status {self.status}')

    def failure(self, what: str) -> ProcessError:
        """Return an error that tells the end of the log."""
        tail = ''.join(f'\n  {line}' for line in self._log.read_text().splitlines()[-8:])
        return ProcessError(f'{self._name} {what}:{tail}')

    def stop(self) -> None:
        """Ask the process to end, then insist; nothing of its group stays behind."""
        for number, patience_sec in ((signal.SIGINT, STOP_SEC), (signal.SIGKILL, None)):
            if self.status is not None:
                return
            os.killpg(self._process.pid, number)
            try:
                self._process.wait(patience_sec)
            except subprocess.TimeoutExpired:
                continue

    def __enter__(self) -> Child:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
