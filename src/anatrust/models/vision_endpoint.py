"""A vision-language model behind an OpenAI-compatible server; pictures leave this machine only where allowed."""

from __future__ import annotations

import base64
import io
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal
from urllib.parse import urlsplit

import numpy as np
from PIL import Image

from anatrust.errors import InputError
from anatrust.models.planner_answer import AnswerError, reply_text, sendable
from anatrust.models.planner_endpoint import Endpoint, ExchangeError, is_here

__all__ = ["VisionEndpoint"]

_LONGEST_SIDE = 1024


@dataclass(frozen=True)
class VisionEndpoint:
    """Asks a server questions about pictures.

    Sent are the question's fixed words, the names of the legend that can only be names, and the pictures as PNG
    made anew from grey values: no header, name, identifier, date or path of a file can be in them. What
    is *drawn* in the pixels of a picture (burned-in text of an ultrasound scanner, a face) is sent with it.

    Parameters
    ----------
    endpoint
        The server and the key.
    model
        Its name there.
    send_images
        Allows that pictures leave this machine. Without it only a server on this machine is asked.
    seconds
        Time for one question, all attempts together.
    attempts
        How often at most the server is asked one question.
    max_bytes
        Longest reply that is read.

    Raises
    ------
    InputError
        If pictures would leave this machine without leave, or a limit is impossible.
    """

    endpoint: Endpoint
    model: str
    send_images: bool = False
    seconds: float = 120.0
    attempts: int = 2
    max_bytes: int = 1 << 20

    convention: ClassVar[Literal["thousand"]] = "thousand"

    def __post_init__(self) -> None:
        host = urlsplit(self.endpoint.url).hostname or ""
        if not is_here(host) and not self.send_images:
            raise InputError(
                f"the pictures would leave this machine for {host}: use a server on this machine, or allow it with"
                " --send-images"
            )
        if not self.model.strip():
            raise InputError("the vision model has no name: give the one the server lists")
        if not 0 < self.seconds <= 3600 or not 1 <= self.attempts <= 10 or not 256 <= self.max_bytes <= 1 << 24:
            raise InputError("the limits are 0 to 3600 seconds, 1 to 10 attempts and 256 bytes to 16 MiB")

    @property
    def identity(self) -> str:
        """Which model on which host; nobody but the host knows its weights."""
        return f"{self.model} at {urlsplit(self.endpoint.url).hostname}"

    def may_say(self, name: str) -> bool:
        """Whether a label's name can be sent: words alone, without long numbers and odd signs."""
        return sendable(name.replace("_", " ")) is not None

    def seen_size(self, picture: Image.Image) -> tuple[int, int]:
        """``(width, height)`` of what is sent: the longer side is at most 1024 pixels."""
        ratio = min(1.0, _LONGEST_SIDE / max(picture.size))
        return max(1, round(picture.width * ratio)), max(1, round(picture.height * ratio))

    def answer(
        self, prompts: Sequence[str], pictures: Sequence[Sequence[Image.Image]], *, most_tokens: int = 512
    ) -> list[str]:
        """What the server says to each prompt.

        Raises
        ------
        ExchangeError
            If there is no usable answer; its text holds nothing that the server said.
        """
        return [self._ask(self._body(prompt, own, most_tokens)) for prompt, own in zip(prompts, pictures, strict=True)]

    def _body(self, prompt: str, pictures: Sequence[Image.Image], most_tokens: int) -> bytes:
        urls = [f"data:image/png;base64,{base64.b64encode(self._png(p)).decode()}" for p in pictures]
        content = [
            *({"type": "image_url", "image_url": {"url": url}} for url in urls),
            {"type": "text", "text": prompt},
        ]
        body = {
            "model": self.model,
            "temperature": 0,
            "max_tokens": most_tokens,
            "messages": [{"role": "user", "content": content}],
        }
        return json.dumps(body).encode()

    def _png(self, picture: Image.Image) -> bytes:
        # Made anew from numbers: nothing that a file's header said can travel along.
        plain = Image.fromarray(np.asarray(picture.convert("RGB").resize(self.seen_size(picture))).copy())
        written = io.BytesIO()
        plain.save(written, "PNG")
        return written.getvalue()

    def _ask(self, body: bytes) -> str:
        deadline = time.monotonic() + self.seconds
        failed = ExchangeError("the server was not asked", again=False)
        for _ in range(self.attempts):
            try:
                return reply_text(self.endpoint.post(body, deadline=deadline, max_bytes=self.max_bytes))
            except ExchangeError as error:
                failed = error
                if not error.again:
                    break
            except AnswerError as error:
                failed = ExchangeError(str(error), again=True)
        raise failed
