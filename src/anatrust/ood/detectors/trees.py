"""Forests in files: skops with one trusted type, and every tree checked before it may predict."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from anatrust.errors import FormatError

__all__ = ["TRUSTED_TYPES", "packed", "unpacked"]

TRUSTED_TYPES = ("sklearn.tree._tree.Tree",)
"""The only type beyond skops' own list that a forest may hold."""


def packed(model: Any) -> npt.NDArray[np.uint8]:
    """A scikit-learn forest as skops bytes, ``(n,)`` uint8."""
    import skops.io

    data = skops.io.dumps(model, compression=zipfile.ZIP_DEFLATED, compresslevel=1)
    return np.frombuffer(data, dtype=np.uint8)


def unpacked(arrays: Mapping[str, npt.NDArray[Any]], kind: type, width: int) -> Any:
    """The forest :func:`packed` wrote.

    Its types are listed before anything is built; anything but the trusted ones is refused. Then
    each tree's children and features are checked, because scikit-learn follows them unchecked.

    Raises
    ------
    FormatError
        If it is damaged, of another type, or would look outside its arrays.
    """
    import skops.io
    from sklearn.tree import BaseDecisionTree

    stored = np.asarray(arrays.get("forest", ()))
    if stored.dtype != np.uint8 or stored.ndim != 1:
        raise FormatError("the forest of a detector is missing: fit it again")
    data = stored.tobytes()
    try:
        foreign = sorted(set(skops.io.get_untrusted_types(data=data)) - set(TRUSTED_TYPES))
        if foreign:
            raise FormatError(f"the forest holds the type {foreign[0]}, which is not trusted: fit it again")
        model = skops.io.loads(data, trusted=list(TRUSTED_TYPES))
    except FormatError:
        raise
    except Exception as error:
        # skops and scikit-learn raise whatever a damaged file leads them to; all of it means the same.
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise FormatError(f"the forest of a detector is damaged ({reason}): fit it again") from None
    if type(model) is not kind:
        raise FormatError(f"a {kind.__name__} was expected, the file holds {type(model).__name__}: fit it again")
    trees = getattr(model, "estimators_", None)
    if not isinstance(trees, list) or not trees or not all(isinstance(tree, BaseDecisionTree) for tree in trees):
        raise FormatError("the forest of a detector has no trees: fit it again")
    columns = getattr(model, "estimators_features_", [np.arange(width)] * len(trees))
    if getattr(model, "n_features_in_", None) != width or len(columns) != len(trees):
        raise FormatError(f"the forest was not fitted on {width} features: fit it again")
    for tree, seen in zip(trees, columns, strict=True):
        _check(tree.tree_, width, np.asarray(seen))
    return model


def _check(tree: Any, width: int, columns: npt.NDArray[Any]) -> None:
    left, right, feature = tree.children_left, tree.children_right, tree.feature
    nodes = np.arange(tree.node_count)
    leaf = left == -1
    sound = (
        tree.node_count > 0
        and tree.n_features == width == len(columns)
        and ((columns >= 0) & (columns < width)).all()
        and (leaf == (right == -1)).all()
        # Children come after their parent, so every walk ends.
        and ((left > nodes) & (left < tree.node_count))[~leaf].all()
        and ((right > nodes) & (right < tree.node_count))[~leaf].all()
        and ((feature >= 0) & (feature < width))[~leaf].all()
        and np.isfinite(tree.value).all()
    )
    if not sound:
        raise FormatError("a tree of the forest points outside its nodes or features: the file was changed, fit again")
