"""Any segmentation network in TorchScript, fed as the card beside it says (extra ``deep``)."""

from __future__ import annotations

import warnings
from pathlib import Path

import torch

from anatrust.errors import FormatError, InputError
from anatrust.models.segmenters.card import read_card
from anatrust.models.segmenters.digest import file_digest
from anatrust.models.segmenters.torch_network import TorchPatchSegmenter

__all__ = ["TorchScriptSegmenter", "load", "load_script"]


class TorchScriptSegmenter(TorchPatchSegmenter):
    """A `TorchPatchSegmenter` whose module is a script: code and weights in one archive, no Python classes."""

    name = "torchscript"


def load_script(path: Path) -> torch.nn.Module:
    """The module of a TorchScript archive, on the CPU.

    Raises
    ------
    FormatError
        If it is none. An archive holds operations of torch, no Python code, but it comes from
        somebody: use those you trust.
    """
    try:
        with warnings.catch_warnings():
            # torch advises torch.export; what people have are scripts.
            warnings.simplefilter("ignore", DeprecationWarning)
            module: torch.nn.Module = torch.jit.load(str(path), map_location="cpu")  # type: ignore[no-untyped-call]
    except (RuntimeError, ValueError, OSError) as error:
        reason = (str(error).strip().splitlines() or ["no message"])[0]
        raise FormatError(f"{path.name} cannot be read as TorchScript ({reason}): export it again") from None
    return module


def load(weights: Path | None, device: str) -> TorchScriptSegmenter:
    """The network ``NAME.ts`` (or ``.pt``) with the card ``NAME.json`` beside it."""
    assert weights is not None
    if not weights.is_file():
        raise InputError(f"there is no network {weights}: give a TorchScript file")
    card = read_card(weights.with_suffix(".json"))
    identity = f"torchscript({'+'.join(card.targets)},sha256={file_digest(weights)})"
    return TorchScriptSegmenter(load_script(weights), card, identity=identity, device=device)
