"""Any segmentation network in ONNX, fed as the card beside it says (extra ``deep``)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from anatrust.errors import FormatError, InputError
from anatrust.models.segmenters.card import NetworkCard, read_card
from anatrust.models.segmenters.digest import file_digest
from anatrust.models.segmenters.patches import PatchSegmenter

__all__ = ["OnnxSegmenter", "load"]


class OnnxSegmenter(PatchSegmenter):
    """A network run by ONNX Runtime.

    Parameters
    ----------
    path
        The ``.onnx`` file: one input ``(n, channels, *patch)``, one output ``(n, classes, *patch)``.
    card
        How it is fed.
    device
        ``"cpu"`` or ``"cuda"``.
    batch
        See `PatchSegmenter`; a network of a fixed batch size brings its own.

    Raises
    ------
    FormatError
        If the file is no such network.
    InputError
        If the runtime has no such device.
    """

    name = "onnx"

    def __init__(self, path: Path, card: NetworkCard, *, device: str = "cpu", batch: int = 4) -> None:
        import onnxruntime

        provider = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}[device]
        if provider not in onnxruntime.get_available_providers():
            raise InputError(f"this ONNX Runtime cannot compute on {device}: install onnxruntime-gpu, or use the cpu")
        try:
            self._session: Any = onnxruntime.InferenceSession(str(path), providers=[provider])
        except Exception as error:  # the runtime's exceptions share no base that it exports
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise FormatError(f"{path.name} cannot be read as an ONNX network ({reason}): export it again") from None
        inputs, outputs = self._session.get_inputs(), self._session.get_outputs()
        if len(inputs) != 1 or len(outputs) != 1 or len(inputs[0].shape) != card.ndim + 2:
            raise FormatError(
                f"{path.name} has {len(inputs)} inputs and {len(outputs)} outputs: one input of {card.ndim + 2} axes "
                "and one output are needed"
            )
        self._input, self._kind = inputs[0].name, inputs[0].type
        fixed = inputs[0].shape[0]
        self._fixed = fixed if isinstance(fixed, int) else None
        super().__init__(card, batch=self._fixed or batch)
        self._digest = file_digest(path)

    @property
    def identity(self) -> str:
        """Name, targets and the file's hash."""
        return f"onnx({'+'.join(self.card.targets)},sha256={self._digest})"

    def forward(self, patches: npt.NDArray[np.float32]) -> npt.NDArray[np.floating]:
        """The network's answer; a batch of fixed size is filled up."""
        count = len(patches)
        if self._fixed and count < self._fixed:
            patches = np.concatenate([patches, np.repeat(patches[-1:], self._fixed - count, axis=0)])
        kind = np.float16 if "float16" in self._kind else np.float32
        answer: npt.NDArray[np.floating] = self._session.run(None, {self._input: patches.astype(kind)})[0]
        return answer[:count]


def load(weights: Path | None, device: str) -> OnnxSegmenter:
    """The network ``NAME.onnx`` with the card ``NAME.json`` beside it."""
    assert weights is not None
    if not weights.is_file():
        raise InputError(f"there is no network {weights}: give a .onnx file")
    return OnnxSegmenter(weights, read_card(weights.with_suffix(".json")), device=device)
