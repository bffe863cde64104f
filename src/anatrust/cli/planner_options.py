"""The planner that the options of ``anatrust segment`` describe."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from anatrust.errors import InputError

if TYPE_CHECKING:
    from anatrust.models.planner import Planner

__all__ = ["make_planner"]


def make_planner(
    name: str,
    *,
    url: str | None,
    model: str | None,
    key_file: Path | None,
    keyring: str | None,
    cache: Path | None,
) -> Planner:
    """Rules, or a language model behind a server; a key is only ever named, never given.

    Raises
    ------
    InputError
        If there is no such planner, or its server is not fully described.
    """
    from anatrust.models.planner_rules import RulesPlanner

    told = [value for value in (url, model, key_file, keyring, cache) if value is not None]
    if name == "rules":
        if told:
            raise InputError("the rules need no server: leave out --planner-url and its like, or say --planner llm")
        return RulesPlanner()
    if name != "llm":
        raise InputError(f"there is no planner {name!r}: choose rules or llm")
    if url is None or model is None:
        raise InputError("the planner 'llm' needs --planner-url and --planner-model")
    from anatrust.models.planner_endpoint import Endpoint
    from anatrust.models.planner_llm import LLMPlanner, LLMSettings

    place: tuple[str, str] | None = None
    if keyring is not None:
        service, _, user = keyring.rpartition(":")
        if not service or not user:
            raise InputError(f"--planner-keyring {keyring!r}: write SERVICE:USER")
        place = (service, user)
    return LLMPlanner(LLMSettings(Endpoint(url, key_file, place), model, cache=cache))
