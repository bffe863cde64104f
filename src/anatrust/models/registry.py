"""What models anatrust can use, whether they are installed, and under which licence."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec
from typing import Literal

from anatrust.errors import InputError

__all__ = ["ModelEntry", "find_entry", "registered_models"]

Kind = Literal["encoder", "segmenter", "planner", "reasoner", "anchors"]


@dataclass(frozen=True)
class ModelEntry:
    """One usable model or tool.

    Parameters
    ----------
    name, kind
        What to call it on the command line, and the protocol it fulfils.
    summary
        One line on what it does.
    licence
        Of the code and, where it has any, of the weights.
    extra
        The extra that installs it; empty where the core is enough.
    requires
        Import names it needs.
    """

    name: str
    kind: Kind
    summary: str
    licence: str
    extra: str = ""
    requires: tuple[str, ...] = ()

    @property
    def installed(self) -> bool:
        """Whether all packages it needs can be found (nothing is imported)."""
        return all(find_spec(package) is not None for package in self.requires)


_ENTRIES = (
    ModelEntry(
        "local-descriptors",
        "encoder",
        "intensity, local mean and deviation, gradient and Laplacian of Gaussian at several scales; no weights",
        "Apache-2.0",
    ),
    ModelEntry(
        "blob",
        "segmenter",
        "blobs and thresholds of local contrast inside an organ; proposes too much, for the demo and the studies",
        "Apache-2.0",
    ),
    ModelEntry(
        "unet",
        "segmenter",
        "small 2-D or 3-D U-Net with its training recipe; no weights come with it",
        "Apache-2.0",
        extra="deep",
        requires=("torch", "safetensors"),
    ),
    ModelEntry(
        "rules",
        "planner",
        "looks the tumour's words up in the knowledge table; no network",
        "Apache-2.0",
    ),
    ModelEntry(
        "llm",
        "planner",
        "asks any OpenAI-compatible server and checks the answer; sends the tumour's words and the modality alone",
        "Apache-2.0; the model's own",
    ),
)


def registered_models() -> tuple[ModelEntry, ...]:
    """All entries, in a fixed order.

    Examples
    --------
    >>> [entry.name for entry in registered_models() if entry.kind == "encoder"]
    ['local-descriptors']
    """
    return _ENTRIES


def find_entry(name: str) -> ModelEntry:
    """The entry of this name.

    Raises
    ------
    InputError
        If no model has this name.
    """
    for entry in _ENTRIES:
        if entry.name == name:
            return entry
    raise InputError(f"there is no model {name!r}: choose one of {', '.join(e.name for e in _ENTRIES)}")
