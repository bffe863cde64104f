"""Which labels of a segmentation are the target, by their names."""

from __future__ import annotations

from collections.abc import Mapping

from anatrust.anatomy.organs import is_lesion_name
from anatrust.anatomy.plausibility import structure_of
from anatrust.anatomy.resolve import named_tumour, resolve_structure, resolve_tumour
from anatrust.errors import InputError

__all__ = ["target_labels"]

_SURE = 0.7


def target_labels(target: str, names: Mapping[int, str]) -> tuple[int, ...]:
    """The numbers of the labels that show a target.

    A tumour is looked for among labels whose names mean a lesion: the one of its own type, else of
    its organ, else the only one ("tumour" in a liver model). An organ is looked for by its name.

    Parameters
    ----------
    target
        In words.
    names
        Of all labels but the background.

    Raises
    ------
    InputError
        If no label fits; the message lists what there is.

    Examples
    --------
    >>> target_labels("liver tumour", {1: "liver", 2: "tumor"})
    (2,)
    >>> target_labels("left kidney", {2: "kidney_right", 3: "kidney_left"})
    (3,)
    """
    if len(names) == 1:
        return tuple(names)
    lesions = {number: name for number, name in names.items() if is_lesion_name(name)}
    wanted = named_tumour(target)
    if wanted is None:
        organs = resolve_structure(target, most=1)
        fitting = tuple(n for n, name in names.items() if organs and structure_of(name) == organs[0].entry.id)
        if fitting:
            return fitting
    elif lesions:
        types = {n: [m.entry.id for m in resolve_tumour(name, at_least=_SURE, most=3)] for n, name in lesions.items()}
        same = tuple(n for n, found in types.items() if wanted.entry.id in found)
        if same:
            return same
        if len(lesions) == 1:
            return tuple(lesions)
    listed = ", ".join(list(names.values())[:12]) or "nothing"
    raise InputError(f"the segmentation has no label for {target!r}: it holds {listed}")
