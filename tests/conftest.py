"""Fixtures every room shares: where the real images are, and small seeded generators."""

from __future__ import annotations

import json
import os
import signal
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest


def pytest_configure() -> None:
    # A shell that starts tests in the background makes them, and every process they start, deaf to Ctrl-C.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _shared_data() -> Path | None:
    places = [os.environ.get("ANATRUST_TEST_DATA"), Path(__file__).parents[2] / "shared" / "data"]
    return next((Path(p) for p in places if p and Path(p).is_dir()), None)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder of real images; tests that need it are skipped where it is absent, never in CI."""
    folder = _shared_data()
    if folder is None:
        if os.environ.get("CI"):
            pytest.fail("the real images are missing: put them at ../shared/data or set ANATRUST_TEST_DATA")
        pytest.skip("real images not found: put them at ../shared/data or set ANATRUST_TEST_DATA")
    return folder


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(20260121)


class Asked(NamedTuple):
    """A request as it arrived."""

    path: str
    headers: dict[str, str]
    body: bytes


class ChatServer:
    """Speaks the chat-completions API on this machine, and keeps what it was sent.

    ``answers`` are given in turn, the last one for ever: text or plain values (as JSON text) become a completion;
    bytes are sent as they are, ``(status, bytes)`` with another status; a function is given the handler.
    """

    def __init__(self) -> None:
        self.answers: list[Any] = [""]
        self.seen: list[Asked] = []
        self.stopping = threading.Event()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                outer.seen.append(Asked(self.path, dict(self.headers), body))
                answer = outer.answers.pop(0) if len(outer.answers) > 1 else outer.answers[0]
                try:
                    if callable(answer):
                        answer(self)
                        return
                    status, reply = answer if isinstance(answer, tuple) else (200, answer)
                    reply = reply if isinstance(reply, bytes) else _completion(reply)
                    self.send_response(status)
                    self.send_header("Content-Length", str(len(reply)))
                    if status in (301, 307):
                        self.send_header("Location", "http://127.0.0.1:9/elsewhere")
                    self.end_headers()
                    self.wfile.write(reply)
                except OSError:
                    pass  # the client had heard enough

            def log_message(self, *_: Any) -> None:
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_address[1]}/v1"
        self.thread = threading.Thread(target=self.http.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        self.thread.start()

    def stop(self) -> None:
        self.stopping.set()
        self.http.shutdown()
        self.http.server_close()
        self.thread.join()


def _completion(content: Any) -> bytes:
    text = content if isinstance(content, str) else json.dumps(content)
    choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
    return json.dumps({"object": "chat.completion", "choices": [choice]}).encode()


@pytest.fixture
def chat_server() -> Iterator[ChatServer]:
    running = ChatServer()
    yield running
    running.stop()
