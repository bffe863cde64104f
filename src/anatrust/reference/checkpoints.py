"""Checkpoints of transformers' trainers without pickle: tensors as safetensors, the rest as JSON."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file

from anatrust.errors import FormatError

__all__ = ["SafeCheckpoints", "load_state", "save_state"]


class SafeCheckpoints:
    """Mixed into a trainer before its class: what it would pickle is written and read here instead.

    Resuming gives the losses of a run that was never stopped: optimiser, schedule and all random
    generators go on where they were.
    """

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        trainer: Any = self
        plain = {"optimizer": trainer.optimizer.state_dict(), "scheduler": trainer.lr_scheduler.state_dict()}
        save_state(Path(output_dir) / "optimizer", plain)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        if checkpoint is None:
            return
        trainer: Any = self
        found = load_state(Path(checkpoint) / "optimizer")
        trainer.optimizer.load_state_dict(found["optimizer"])
        trainer.lr_scheduler.load_state_dict(found["scheduler"])

    def _save_rng_state(self, output_dir: str) -> None:
        save_state(Path(output_dir) / "random", _generators())

    def _load_rng_state(self, checkpoint: str | None) -> None:
        if checkpoint is not None:
            _restore(load_state(Path(checkpoint) / "random"))

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        trainer: Any = super()
        trainer._save(output_dir, state_dict)
        # The trainer pickles its arguments for reference alone; the configuration lies beside as YAML.
        (Path(output_dir or self.args.output_dir) / "training_args.bin").unlink(missing_ok=True)  # type: ignore[attr-defined]


def _generators() -> dict[str, Any]:
    version, words, gauss = random.getstate()
    name, key, position, has_gauss, cached = np.random.get_state(legacy=True)  # noqa: NPY002 - the trainer's generator
    found: dict[str, Any] = {
        "python": [version, list(words), gauss],
        "numpy": [name, torch.from_numpy(np.asarray(key, np.int64)), position, has_gauss, cached],
        "torch": torch.get_rng_state(),
    }
    if torch.cuda.is_available():
        found["cuda"] = torch.cuda.get_rng_state_all()
    return found


def _restore(found: dict[str, Any]) -> None:
    version, words, gauss = found["python"]
    random.setstate((version, tuple(words), gauss))
    name, key, position, has_gauss, cached = found["numpy"]
    np.random.set_state((name, key.numpy().astype(np.uint32), position, has_gauss, cached))  # noqa: NPY002
    torch.set_rng_state(found["torch"])
    if "cuda" in found and torch.cuda.is_available():
        torch.cuda.set_rng_state_all(found["cuda"])


def save_state(path: Path, state: Any) -> None:
    """A nest of dicts, lists, plain values and tensors as ``PATH.json`` and ``PATH.safetensors``.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     save_state(Path(folder) / "state", {"step": 3, 0: [torch.ones(2)]})
    ...     load_state(Path(folder) / "state")
    {'step': 3, 0: [tensor([1., 1.])]}
    """
    tensors: dict[str, torch.Tensor] = {}
    plain = _plain(state, tensors)
    save_file(tensors, path.with_suffix(".safetensors"))
    path.with_suffix(".json").write_text(json.dumps(plain), encoding="utf-8")


def load_state(path: Path) -> Any:
    """What :func:`save_state` wrote.

    Raises
    ------
    FormatError
        If a file is missing or damaged.
    """
    try:
        tensors = load_file(path.with_suffix(".safetensors"))
        return _nested(json.loads(path.with_suffix(".json").read_text(encoding="utf-8")), tensors)
    except (OSError, ValueError, KeyError, TypeError, RuntimeError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise FormatError(f"the checkpoint {path.parent.name} is damaged ({reason}): resume from one before") from error


def _plain(value: Any, tensors: dict[str, torch.Tensor]) -> Any:
    if isinstance(value, torch.Tensor):
        name = str(len(tensors))
        tensors[name] = value.detach().cpu().contiguous().clone()
        return {"tensor": name}
    if isinstance(value, dict):
        # Optimisers number their parameters: keys keep their type as pairs.
        return {"dict": [[key, _plain(inner, tensors)] for key, inner in value.items()]}
    if isinstance(value, list | tuple):
        return [_plain(inner, tensors) for inner in value]
    return value.item() if isinstance(value, np.generic) else value


def _nested(value: Any, tensors: dict[str, torch.Tensor]) -> Any:
    if isinstance(value, dict):
        if "tensor" in value:
            return tensors[value["tensor"]]
        return {key: _nested(inner, tensors) for key, inner in value["dict"]}
    return [_nested(inner, tensors) for inner in value] if isinstance(value, list) else value
