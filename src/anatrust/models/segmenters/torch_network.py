"""A torch module behind the patch interface: device, mixed precision on CUDA, no gradients (extra ``deep``)."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch

from anatrust.models.device import check_device
from anatrust.models.segmenters.card import NetworkCard
from anatrust.models.segmenters.patches import PatchSegmenter

__all__ = ["TorchPatchSegmenter"]


class TorchPatchSegmenter(PatchSegmenter):
    """Runs a module ``(n, channels, *patch) -> (n, classes, *patch)``.

    Parameters
    ----------
    module, card
        The network, and how it is fed.
    identity
        Exact description.
    device
        ``"cpu"`` or ``"cuda"``; mixed precision on CUDA only.
    batch
        See `PatchSegmenter`.

    Raises
    ------
    InputError
        If there is no such device.
    """

    name = "torch"

    def __init__(
        self, module: torch.nn.Module, card: NetworkCard, *, identity: str, device: str = "cpu", batch: int = 4
    ) -> None:
        check_device(device)
        super().__init__(card, batch=batch)
        self._identity = identity
        self._device = device
        self._module = module.to(device).eval()

    @property
    def identity(self) -> str:
        """As given."""
        return self._identity

    @torch.no_grad()
    def forward(self, patches: npt.NDArray[np.float32]) -> npt.NDArray[np.floating]:
        """The module's answer as float32."""
        given = torch.from_numpy(patches).to(self._device)
        with torch.autocast(self._device, enabled=self._device == "cuda"):
            answer = self._module(given)
        if isinstance(answer, (tuple, list)):  # deep supervision: the full resolution comes first
            answer = answer[0]
        values: npt.NDArray[np.floating] = answer.float().cpu().numpy()
        return values
