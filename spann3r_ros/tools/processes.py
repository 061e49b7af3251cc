# SPDX-License-Identifier: Apache-2.0
"""Child processes that end with their owner, and a DDS domain that only they use."""
from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

# The ports of domains below 101 are below the range of ports that the system assigns.
DOMAINS = range(40, 100)
DOMAIN_LOCK_PORT = 22_000
STOP_SEC = 10.0


class ProcessError(RuntimeError):
    """A process failed or did not finish in time; the message contains the reason."""


@contextmanager
def private_domain() -> Iterator[int]:
    """Reserve a DDS domain that no other demo on this machine uses; yield its number."""
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
    """Return the resident memory of a process in bytes (Linux)."""
    pages = int(Path(f'/proc/{pid}/statm').read_text().split()[1])
    return pages * os.sysconf('SC_PAGE_SIZE')


def processor_sec(pid: int) -> float:
    """Return the processor time that a process has used, in seconds (Linux)."""
    fields = Path(f'/proc/{pid}/stat').read_text().rpartition(')')[2].split()
    return sum(map(int, fields[11:13])) / os.sysconf('SC_CLK_TCK')


class Child:
    """A process in its own process group, with its output in a log; the context ends it."""

    def __init__(self, command: Sequence[str], log: Path) -> None:
        self._log = log
        self._name = log.stem
        with log.open('w') as file:
            self._process = subprocess.Popen(
                [sys.executable, *command], stdout=file, stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL, start_new_session=True)

    @property
    def status(self) -> int | None:
        """Return the exit status; None while the process runs."""
        return self._process.poll()

    @property
    def pid(self) -> int:
        """Return the number of the process."""
        return self._process.pid

    @property
    def threads(self) -> int:
        """Return how many threads the process has (Linux)."""
        return len(os.listdir(f'/proc/{self._process.pid}/task'))

    @property
    def resident_bytes(self) -> int:
        """Return the resident memory of the process in bytes."""
        return resident_bytes(self._process.pid)

    @property
    def processor_sec(self) -> float:
        """Return the processor time that the process has used, in seconds."""
        return processor_sec(self._process.pid)

    def check(self) -> None:
        """Raise ProcessError if the process has ended with an error."""
        if self.status:
            raise self.failure(f'ended with status {self.status}')

    def failure(self, what: str) -> ProcessError:
        """Return an error that contains the end of the log."""
        tail = ''.join(f'\n  {line}' for line in self._log.read_text().splitlines()[-8:])
        return ProcessError(f'{self._name} {what}:{tail}')

    def stop(self) -> None:
        """End the process group by SIGINT, and by SIGKILL if that takes too long."""
        for number, timeout_sec in ((signal.SIGINT, STOP_SEC), (signal.SIGKILL, None)):
            if self.status is not None:
                return
            os.killpg(self._process.pid, number)
            try:
                self._process.wait(timeout_sec)
            except subprocess.TimeoutExpired:
                continue

    def __enter__(self) -> Child:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
