"""What is known of how a scan was made, brought to common words: manufacturer, contrast, kernel."""

from __future__ import annotations

import re
from collections.abc import Mapping

__all__ = ["KERNELS", "contrast_group", "harmonised", "kernel_group", "manufacturer_group"]

KERNELS = ("soft", "medium", "sharp")
"""The groups of reconstruction kernels, smooth ones first (Recon1, Recon2, Recon3 of the source)."""

_UNKNOWN = frozenset({"", "unknown", "none", "na", "n/a", "nan", "?"})
_GE = {"lung": 2, "boneplus": 1, "bone": 0, "standard": 0, "soft": 0, "chest": 0, "detail": 1}
_MAKERS = {
    "ge": "GE",
    "general": "GE",
    "siemens": "Siemens",
    "philips": "Philips",
    "toshiba": "Canon",
    "canon": "Canon",
}


def manufacturer_group(text: str) -> str:
    """One name for each maker; empty where nothing is known.

    Examples
    --------
    >>> manufacturer_group("GE MEDICAL SYSTEMS"), manufacturer_group("SIEMENS Healthineers"), manufacturer_group("")
    ('GE', 'Siemens', '')
    """
    words = text.strip().lower()
    if words in _UNKNOWN:
        return ""
    first = re.split(r"[\s_/-]+", words)[0]
    return _MAKERS.get(first, text.strip())


def contrast_group(text: str) -> str:
    """``"contrast"``, ``"plain"``, or empty where nothing is known.

    Examples
    --------
    >>> contrast_group("Yes"), contrast_group("0"), contrast_group("Omnipaque 350"), contrast_group("")
    ('contrast', 'plain', 'contrast', '')
    """
    words = text.strip().lower()
    if words in _UNKNOWN - {"none"}:
        return ""
    return "plain" if words in {"no", "false", "0", "without", "plain", "none", "non-contrast", "n"} else "contrast"


def kernel_group(text: str, manufacturer: str = "") -> str:
    """A reconstruction kernel as soft, medium or sharp; empty where the rules do not know it.

    Siemens: the number in the name, below 40 soft, below 50 medium, else sharp. GE: STANDARD and BONE
    soft, BONEPLUS and DETAIL medium, LUNG sharp. Several names: the sharpest. Other makers: GE's names,
    then Siemens' numbers. These are the published rules (plus SOFT, CHEST, DETAIL).

    Examples
    --------
    >>> kernel_group("B31f", "SIEMENS"), kernel_group("LUNG", "GE MEDICAL SYSTEMS"), kernel_group("['B45f', 'B70f']")
    ('soft', 'sharp', 'sharp')
    """
    tokens = [token for token in re.split(r"[^A-Za-z0-9]+", text) if token]
    maker = manufacturer_group(manufacturer)
    ranks = []
    for token in tokens:
        number = re.search(r"\d+", token)
        named = _GE.get(token.lower())
        if maker != "Siemens" and named is not None:
            ranks.append(named)
        elif maker != "GE" and number is not None:
            ranks.append(0 if int(number[0]) < 40 else 1 if int(number[0]) < 50 else 2)
    return KERNELS[max(ranks)] if ranks else ""


def harmonised(metadata: Mapping[str, str]) -> dict[str, str]:
    """The factors of a metadata hold-out from a row's columns, by their usual names.

    Returns
    -------
    dict
        ``manufacturer``, ``contrast`` and ``kernel``, only those that are known.

    Examples
    --------
    >>> harmonised({"Manufacturer": "SIEMENS", "ConvolutionKernel": "B70f", "contrast": "no"})
    {'manufacturer': 'Siemens', 'contrast': 'plain', 'kernel': 'sharp'}
    """
    plain = {re.sub(r"[^a-z]", "", name.lower()): value for name, value in metadata.items()}
    maker = plain.get("manufacturer", plain.get("vendor", ""))
    kernel = plain.get("kernel", plain.get("convolutionkernel", plain.get("reconstructionkernel", "")))
    agent = plain.get("contrast", plain.get("contrastbolusagent", ""))
    found = {
        "manufacturer": manufacturer_group(maker),
        "contrast": contrast_group(agent),
        "kernel": kernel_group(kernel, maker),
    }
    return {name: value for name, value in found.items() if value}
