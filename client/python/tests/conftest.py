"""A broker for the tests.

`AQUEDUCT_SERVER` names one that runs already (tests/e2e/python.rs starts it); without it, one is
started for the run. Tests that stop a broker start one of their own from the binary that
`AQUEDUCT_BIN` names.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import queue
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import TypeVar

import pytest

from aqueduct import Client

# How long anything may take before a test gives up. Generous: a slow machine is no bug.
PATIENCE = 60.0

Result = TypeVar("Result")


class Broker:
    """A broker process on a directory of its own."""

    def __init__(self, data: Path, *arguments: str) -> None:
        self._data, self._arguments = data, arguments
        self.address = "127.0.0.1:0"
        self._process: subprocess.Popen[str] | None = None
        self.start()

    def start(self) -> None:
        """Starts it, the second time on the same port, and waits until it serves."""
        binary = os.environ.get("AQUEDUCT_BIN")
        if binary is None:
            pytest.skip("AQUEDUCT_BIN names no broker")
        process = subprocess.Popen(
            [binary, "serve", "--listen", self.address, "--data", self._data, *self._arguments],
            stderr=subprocess.PIPE,
            text=True,
        )
        self._process = process
        lines: queue.Queue[str] = queue.Queue()
        threading.Thread(target=_follow, args=(process, lines), daemon=True).start()
        end = time.monotonic() + PATIENCE
        said: list[str] = []
        while time.monotonic() < end and not (said and said[-1] == ""):
            said.append(lines.get(timeout=PATIENCE))
            if said[-1].startswith("ready api="):
                self.address = said[-1].removeprefix("ready api=").split()[0]
                return
        self.kill()
        raise AssertionError(f"the broker did not start: {''.join(said)}")

    def kill(self) -> None:
        """Ends it with SIGKILL."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def restart(self) -> None:
        """SIGKILL, then again on the same data."""
        self.kill()
        self.start()

    def send(self, number: signal.Signals) -> None:
        """Sends it a signal."""
        assert self._process is not None
        self._process.send_signal(number)


def _follow(process: subprocess.Popen[str], lines: queue.Queue[str]) -> None:
    assert process.stderr is not None
    with process.stderr:
        for line in process.stderr:
            lines.put(line)
    lines.put("")


def _too_long(number: int, frame: object) -> None:
    raise TimeoutError(f"the test takes longer than {2 * PATIENCE:g} s")


@pytest.fixture(autouse=True)
def _patience() -> Iterator[None]:
    """Nothing hangs: a test that does not end is ended, and its fixtures with it."""
    before = signal.signal(signal.SIGALRM, _too_long)
    signal.setitimer(signal.ITIMER_REAL, 2 * PATIENCE)
    yield
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, before)


@pytest.fixture(scope="session")
def server() -> Iterator[str]:
    """The address of a broker that nobody stops."""
    address = os.environ.get("AQUEDUCT_SERVER")
    if address:
        yield address
        return
    with tempfile.TemporaryDirectory() as directory:
        broker = Broker(Path(directory) / "data")
        yield broker.address
        broker.kill()


@pytest.fixture
def own_broker(tmp_path: Path) -> Iterator[Broker]:
    """A broker that the test may stop."""
    broker = Broker(tmp_path / "data")
    yield broker
    broker.kill()


@pytest.fixture
async def client(server: str) -> AsyncIterator[Client]:
    """A client of the broker that nobody stops."""
    async with await Client.connect(server) as client:
        yield client


@pytest.fixture
def topic(request: pytest.FixtureRequest) -> str:
    """A name that no other test has."""
    return f"py-{request.node.name}-{next(_COUNTER)}".replace("[", "-").replace("]", "")


_COUNTER = itertools.count()


async def soon(work: Awaitable[Result]) -> Result:
    """What must come in the end."""
    return await asyncio.wait_for(work, PATIENCE)


async def until(condition: Callable[[], bool | Awaitable[bool]]) -> None:
    """Waits for something that must become true in the end."""
    end = time.monotonic() + PATIENCE
    while True:
        holds = condition()
        if holds if isinstance(holds, bool) else await holds:
            return
        assert time.monotonic() < end, "it did not become true"
        await asyncio.sleep(0.02)
