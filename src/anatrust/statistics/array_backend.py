"""One code path for NumPy and torch arrays.

The engines use only functions that the array API standard names and that both libraries
take with the same arguments (`matmul`, `exp`, `sqrt`, `sum`, `out=`). Torch is never
imported: it is looked up among the loaded modules when an argument is a tensor.
"""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["as_array", "is_torch", "like", "namespace", "to_numpy"]


def is_torch(array: object) -> bool:
    """Whether an object is a torch tensor.

    Examples
    --------
    >>> is_torch(np.zeros(2))
    False
    """
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(array, torch.Tensor)


def namespace(array: object) -> Any:
    """The library whose functions compute with an array: ``numpy`` or ``torch``.

    Examples
    --------
    >>> namespace(np.zeros(2)).__name__
    'numpy'
    """
    return sys.modules["torch"] if is_torch(array) else np


def as_array(values: Any) -> Any:
    """A tensor without its gradient, where it lies; anything else as NumPy.

    Examples
    --------
    >>> as_array([1, 2])
    array([1, 2])
    """
    return values.detach() if is_torch(values) else np.asarray(values)


def to_numpy(array: Any) -> npt.NDArray[Any]:
    """An array in host memory as NumPy; tensors are detached and, if need be, copied from their device.

    Examples
    --------
    >>> to_numpy([1, 2])
    array([1, 2])
    """
    return np.asarray(array.detach().cpu().numpy()) if is_torch(array) else np.asarray(array)


def like(values: npt.NDArray[Any], reference: Any) -> Any:
    """NumPy values in the library and on the device of a reference array; their dtype is kept.

    Examples
    --------
    >>> like(np.zeros(2, dtype=np.float32), np.ones(1)).dtype
    dtype('float32')
    """
    if is_torch(reference):
        return sys.modules["torch"].as_tensor(values, device=reference.device)
    return values
