"""The reasoner that the options of ``anatrust annotate`` describe."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from anatrust.errors import InputError

if TYPE_CHECKING:
    from anatrust.models.protocols import Reasoner

__all__ = ["make_reasoner"]


def make_reasoner(
    name: str, *, endpoint: str | None, key_file: Path | None, keyring: str | None, **given: Any
) -> str | Reasoner:
    """A reasoner's name, or the vision-language reasoner with its model; a key is only ever named, never given.

    Raises
    ------
    InputError
        If an option does not belong to the reasoner, or the model is not fully described.
    """
    told = {key: value for key, value in given.items() if value not in (None, (), False)}
    if name == "seggpt":
        if set(told) - {"model"} or endpoint or key_file or keyring:
            raise InputError("the reasoner 'seggpt' takes --model alone: leave the options of vlm out")
        if "model" not in told:
            raise InputError("the reasoner 'seggpt' needs --model: a folder, or a name in the local cache")
        from anatrust.models.seggpt import SegGpt
        from anatrust.reference.in_context_reasoner import InContextReasoner
        from anatrust.reference.volume_reasoner import VolumeReasoner

        return VolumeReasoner(InContextReasoner(SegGpt.load(told["model"])))
    if name != "vlm":
        if told or endpoint or key_file or keyring:
            raise InputError(f"the reasoner {name!r} takes no model: leave --model and its like out, or say vlm")
        return name
    if "model" not in told:
        raise InputError("the reasoner 'vlm' needs --model: a folder, or with --endpoint a name on the server")
    from anatrust.models.planner_endpoint import Endpoint
    from anatrust.pipeline.language import LanguageOptions, volume_reasoner

    place: tuple[str, str] | None = None
    if keyring is not None:
        service, _, user = keyring.rpartition(":")
        if not service or not user:
            raise InputError(f"--keyring {keyring!r}: write SERVICE:USER")
        place = (service, user)
    if endpoint is None and (key_file or keyring):
        raise InputError("a key belongs to an --endpoint: name one, or leave the key out")
    server = None if endpoint is None else Endpoint(endpoint, key_file, place)
    return volume_reasoner(LanguageOptions(**told, endpoint=server))
