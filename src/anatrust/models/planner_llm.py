"""A planner that asks a language model, checks its answer, and goes by the rules where it cannot be used."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path

from anatrust.anatomy.knowledge import Knowledge, knowledge
from anatrust.errors import InputError
from anatrust.image.atomic import replacing
from anatrust.models.planner import AnatomyPlan, PlanModality
from anatrust.models.planner_answer import AnswerError, plan_of_answer, request_body, sendable
from anatrust.models.planner_endpoint import Endpoint, ExchangeError
from anatrust.models.planner_rules import RulesPlanner

__all__ = ["LLMPlanner", "LLMSettings"]


@dataclass(frozen=True)
class LLMSettings:
    """Which model is asked, and how much patience it gets.

    Parameters
    ----------
    endpoint
        The server and the key.
    model
        Its name there.
    seconds
        Time for everything: all attempts together.
    attempts
        How often at most the server is asked for one plan.
    max_bytes
        Longest reply that is read.
    cache
        Folder for usable answers, one file a question; None keeps them in memory only.

    Raises
    ------
    InputError
        If a limit is impossible, the model has no name, or the cache is a file.
    """

    endpoint: Endpoint
    model: str
    seconds: float = 30.0
    attempts: int = 2
    max_bytes: int = 1 << 16
    cache: Path | None = None

    def __post_init__(self) -> None:
        if not self.model.strip():
            raise InputError("the planner's model has no name: give the one the server lists")
        if self.cache is not None and self.cache.exists() and not self.cache.is_dir():
            raise InputError(f"the planner's cache {self.cache} is a file: give a folder")
        if not 0 < self.seconds <= 600 or not 1 <= self.attempts <= 10 or not 256 <= self.max_bytes <= 1 << 24:
            raise InputError("the planner's limits are 0 to 600 seconds, 1 to 10 attempts and 256 bytes to 16 MiB")


class LLMPlanner:
    """Asks any OpenAI-compatible server; where that fails, the rules plan and the plan says why.

    Sent are fixed instructions, the words of the target and the modality: never an image, a name
    or an identifier. Words that look like more than the name of a tumour are not sent at all.
    The plan's ``record`` keeps the request and the raw reply.

    Parameters
    ----------
    settings
        Server, model and limits.
    table
        The knowledge the answer is checked against; the built-in one by default.
    """

    name = "llm"

    def __init__(self, settings: LLMSettings, table: Knowledge | None = None) -> None:
        self.settings = settings
        self.table = table or knowledge()
        self._rules = RulesPlanner(self.table)
        self._answers: dict[str, bytes] = {}

    def plan(self, target: str, modality: PlanModality = "unknown") -> AnatomyPlan:
        """The plan for a target.

        Raises
        ------
        InputError
            If neither the model nor the rules can plan, or the key cannot be read.
        """
        words = sendable(target)
        if words is None:
            return self._by_rules(
                target, modality, "the words look like more than a tumour's name: nothing was sent", {}
            )
        body = request_body(words, modality, self.settings.model, self.table)
        name = sha256(self.settings.endpoint.url.encode() + b"\n" + body).hexdigest()
        record = {"request": body.decode(), "answer": ""}
        stored = self._stored(name)
        if stored is not None:
            try:
                plan = plan_of_answer(stored, words, modality, self.table)
                return replace(plan, record={**record, "answer": stored.decode(), "source": "cache"})
            except AnswerError:
                pass  # written by another version or damaged: ask again
        deadline = time.monotonic() + self.settings.seconds
        reason = ""
        for _ in range(self.settings.attempts):
            try:
                raw = self.settings.endpoint.post(body, deadline=deadline, max_bytes=self.settings.max_bytes)
                record = {**record, "answer": raw.decode("utf-8", "replace"), "source": "server"}
                plan = plan_of_answer(raw, words, modality, self.table)
            except ExchangeError as error:
                reason = str(error)
                if not error.again:
                    break
            except AnswerError as error:
                reason = str(error)
            else:
                self._store(name, raw)
                return replace(plan, record=record)
        return self._by_rules(words, modality, reason, record)

    def _by_rules(self, words: str, modality: PlanModality, reason: str, record: dict[str, str]) -> AnatomyPlan:
        try:
            plan = self._rules.plan(words, modality)
        except InputError as error:
            raise InputError(f"{error}; the language model was of no help: {reason}") from None
        return replace(plan, fallback=reason, record=record or None)

    def _stored(self, name: str) -> bytes | None:
        if name in self._answers or self.settings.cache is None:
            return self._answers.get(name)
        try:
            held = json.loads((self.settings.cache / f"{name}.json").read_text(encoding="utf-8"))
            return str(held["answer"]).encode()
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def _store(self, name: str, raw: bytes) -> None:
        self._answers[name] = raw
        if self.settings.cache is not None:
            self.settings.cache.mkdir(parents=True, exist_ok=True)
            text = json.dumps({"model": self.settings.model, "answer": raw.decode("utf-8", "replace")})
            with replacing(self.settings.cache / f"{name}.json") as path:
                path.write_text(text, encoding="utf-8")
