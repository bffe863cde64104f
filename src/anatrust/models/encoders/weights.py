"""Where frozen weights lie, offline: a folder or the local Hugging Face cache, safetensors only."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from anatrust.errors import FormatError, InputError, MissingExtraError

__all__ = ["FoundWeights", "find_weights", "load_frozen", "load_named"]

_LARGEST_CONFIG = 2**20


@dataclass(frozen=True)
class FoundWeights:
    """A folder that holds a model.

    Parameters
    ----------
    folder
        With ``config.json`` and ``*.safetensors``.
    config, preprocessor
        Both files as plain values; the second empty where there is none.
    """

    folder: Path
    config: dict[str, Any]
    preprocessor: dict[str, Any]


def find_weights(source: str | Path, model_types: Sequence[str], revision: str | None = None) -> FoundWeights:
    """The folder of a model, by path or by name; nothing is downloaded.

    Parameters
    ----------
    source
        A folder, or a model's name such as ``facebook/dinov2-small`` in the local cache.
    model_types
        What ``config.json`` may say it is.
    revision
        Commit, tag or branch in the cache.

    Raises
    ------
    InputError
        If it is not there, or is a model of another family.
    FormatError
        If it has no weights in safetensors, or its configuration cannot be read.
    """
    folder = Path(source) if Path(source).is_dir() else _cached(str(source), revision)
    config = _read(folder / "config.json")
    if config is None:
        raise FormatError(f"{folder.name}: there is no config.json beside the weights; give a model's whole folder")
    if not any(folder.glob("*.safetensors")):
        raise FormatError(f"{folder.name}: there are no weights in safetensors; other formats can run code, convert it")
    if config.get("model_type") not in model_types:
        raise InputError(
            f"{folder.name} is a model of type {config.get('model_type')!r}, not {' or '.join(model_types)}: choose "
            "the encoder of its family"
        )
    return FoundWeights(folder, config, _read(folder / "preprocessor_config.json") or {})


def _cached(name: str, revision: str | None) -> Path:
    try:
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError
    except ImportError:
        raise MissingExtraError("huggingface_hub", "deep", "an encoder") from None
    try:
        return Path(snapshot_download(name, revision=revision, local_files_only=True))
    except (LocalEntryNotFoundError, HFValidationError, FileNotFoundError, ValueError):
        at = f" at revision {revision}" if revision else ""
        raise InputError(
            f"the weights {name!r}{at} are neither a folder nor in the local Hugging Face cache: fetch them where "
            "there is a network ('hf download NAME'), or give a folder"
        ) from None


def _read(file: Path) -> dict[str, Any] | None:
    if not file.is_file():
        return None
    try:
        if file.stat().st_size > _LARGEST_CONFIG:
            raise FormatError(f"{file.name} is too large for a configuration")
        plain = json.loads(file.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError):
        raise FormatError(f"{file.name} of {file.parent.name} is not JSON: fetch the model again") from None
    if not isinstance(plain, dict):
        raise FormatError(f"{file.name} of {file.parent.name} is not a JSON object: fetch the model again")
    return plain


def load_frozen(model_class: Any, found: FoundWeights) -> Any:
    """A model of transformers in evaluation mode, every weight from the file, float32, no gradient.

    Raises
    ------
    FormatError
        If a weight is missing or has another shape: transformers would fill it with random numbers.
    """
    from safetensors import SafetensorError

    with _quiet():
        try:
            model, told = model_class.from_pretrained(
                str(found.folder), local_files_only=True, use_safetensors=True, output_loading_info=True
            )
        except (OSError, ValueError, RuntimeError, KeyError, SafetensorError) as error:
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise FormatError(f"{found.folder.name} cannot be loaded ({reason}): fetch the model again") from error
    absent = sorted([*map(str, told["missing_keys"]), *map(str, told.get("mismatched_keys", ()))])
    if absent:
        raise FormatError(
            f"{found.folder.name} lacks {len(absent)} weights ({', '.join(absent[:3])}): it is another model or damaged"
        )
    return model.float().eval().requires_grad_(False)


def load_named(
    model_class: str, source: str | Path, model_types: Sequence[str], revision: str | None = None
) -> tuple[Any, str]:
    """A frozen model of transformers by the name of its class, and the SHA-256 of its weights.

    Raises
    ------
    MissingExtraError
        If transformers is not installed.
    InputError, FormatError
        As in :func:`find_weights` and :func:`load_frozen`.
    """
    try:
        import transformers
    except ImportError:
        raise MissingExtraError("transformers", "deep", model_class) from None
    from anatrust.models.segmenters.digest import folder_digest

    found = find_weights(source, model_types, revision)
    return load_frozen(getattr(transformers, model_class), found), folder_digest(found.folder, "*.safetensors")


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """No bars and no advice of transformers while loading; both as they were afterwards."""
    from transformers.utils import logging

    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()
