"""The device a network runs on, said to be missing before anything is loaded."""

from __future__ import annotations

import re

from anatrust.errors import InputError, MissingExtraError

__all__ = ["check_device"]


def check_device(device: str) -> None:
    """Refuse a device that torch does not have here.

    Parameters
    ----------
    device
        ``"cpu"``, ``"cuda"`` or ``"cuda:N"``.

    Raises
    ------
    InputError
        If it is none of these, or torch sees no such CUDA device.
    MissingExtraError
        If torch is not installed and the device is not the CPU.

    Examples
    --------
    >>> check_device("cpu")
    >>> check_device("tpu")
    Traceback (most recent call last):
    anatrust.errors.InputError: there is no device 'tpu': choose cpu or cuda
    """
    if device == "cpu":
        return
    if not re.fullmatch(r"cuda(:\d{1,3})?", device):
        raise InputError(f"there is no device {device!r}: choose cpu or cuda")
    try:
        import torch
    except ImportError:
        raise MissingExtraError("torch", "deep", f"the device {device!r}") from None
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if count == 0:
        raise InputError("torch sees no CUDA device here: use cpu as the device (--device cpu)")
    if int(device.partition(":")[2] or 0) >= count:
        raise InputError(f"there is no device {device!r}: torch sees cuda:0 to cuda:{count - 1}")
