"""Options that several commands share, and the settings made of them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from anatrust.errors import InputError

if TYPE_CHECKING:
    from anatrust.rejection.settings import RejectionSettings

__all__ = [
    "Alpha",
    "AnatomyNames",
    "Direction",
    "FailOn",
    "Features",
    "Json",
    "Modality",
    "NoGates",
    "NullName",
    "OutputFolder",
    "Quiet",
    "Seed",
    "Series",
    "Spacing",
    "Verbose",
    "check_verdict_options",
    "parse_series",
    "parse_spacing",
    "rejection_settings",
]

_MODALITIES = ("CT", "MR", "PET", "US", "photo", "unknown")

Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print nothing but errors.")]
Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="Show where errors come from, and warnings.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON alone on stdout.")]


def _known_modality(name: str | None) -> str | None:
    """Asked once and at once: a table of a thousand scans is not read with a modality nobody knows."""
    if name is not None and name.upper() not in (known.upper() for known in _MODALITIES):
        raise InputError(f"--modality {name!r}: choose one of {', '.join(_MODALITIES)}")
    return name


Modality = Annotated[
    str | None,
    typer.Option(
        metavar="NAME", callback=_known_modality, help="CT, MR, PET, US, photo or unknown; DICOM says it itself."
    ),
]
Spacing = Annotated[str | None, typer.Option(metavar="MM", help="Pixel size of a picture in mm, e.g. 0.5 or 0.5x0.7.")]
Series = Annotated[
    str | None, typer.Option(metavar="N", help="Which DICOM series, page or volume, where there are several.")
]
OutputFolder = Annotated[Path | None, typer.Option("-o", "--output", metavar="DIR", help="Folder for the results.")]
Alpha = Annotated[
    float | None, typer.Option(metavar="A", help="The tolerated error; sets all levels (default 0.10, 0.05).")
]
NullName = Annotated[
    str | None,
    typer.Option(metavar="NAME", help="auto (cohort with a profile, else surrogate-max), placement, block or iid."),
]
Seed = Annotated[int, typer.Option(metavar="N", help="Seed of all random draws.")]
FailOn = Annotated[str | None, typer.Option(metavar="WHAT", help="Exit with 3 on review or abstain (or worse).")]
Features = Annotated[
    str | None,
    typer.Option(metavar="NAME", help="What is compared: intensity (default) or local (neighbourhood descriptors)."),
]
Direction = Annotated[str | None, typer.Option(metavar="NAME", help="Lesions are brighter, darker, or both (default).")]
NoGates = Annotated[bool, typer.Option("--no-gates", help="Test every candidate, however small or unlikely.")]
AnatomyNames = Annotated[
    str | None,
    typer.Option(
        metavar="TABLE",
        help="Names of the anatomy's labels: totalsegmentator_ct, totalsegmentator_mr, amos, btcv, msd_liver and its "
        "like (anatrust info lists them), or a JSON file.",
    ),
]


def check_verdict_options(out: Path | None, *, json: bool, fail_on: str | None, seed: int) -> None:
    """What every command that ends with a verdict asks of its options, before anything is read."""
    if fail_on not in (None, "review", "abstain"):
        raise InputError(f"--fail-on {fail_on!r}: choose review or abstain")
    if out is None and not json:
        raise InputError("say where the results shall go with -o DIR, or print the verdict with --json")
    if seed < 0:
        raise InputError(f"--seed {seed}: give a number from 0")


def parse_spacing(text: str | None) -> tuple[float, ...] | None:
    """Numbers in mm from ``0.5``, ``0.5,0.7`` or ``0.5x0.7``.

    >>> parse_spacing("0.5x0.7")
    (0.5, 0.7)
    """
    if text is None:
        return None
    try:
        numbers = tuple(float(part) for part in text.replace("x", ",").split(","))
    except ValueError:
        raise InputError(f"--spacing {text!r} is not numbers in mm: write for example 0.5 or 0.5x0.7") from None
    if not all(0 < number < float("inf") for number in numbers):
        raise InputError(f"--spacing {text!r}: millimetres are above 0")
    return numbers


def parse_series(text: str | None) -> int | str | None:
    """A number if it is one (its place in the list), else a series UID.

    >>> parse_series("2"), parse_series("1.2.840")
    (2, '1.2.840')
    """
    return int(text) if text is not None and text.isdigit() else text


def rejection_settings(profile: str | Path | None, given: dict[str, Any]) -> RejectionSettings | None:
    """Settings with what was given on the command line over those of the profile, or over the defaults.

    Parameters
    ----------
    profile
        A profile's file, whose settings are the base.
    given
        Fields of `RejectionSettings` (None: not given) and ``no_gates``.

    Returns
    -------
    None if nothing was given.
    """
    fields = {name: value for name, value in given.items() if value is not None and name != "no_gates"}
    if not fields and not given.get("no_gates"):
        return None
    from anatrust.rejection.settings import RejectionSettings

    base = RejectionSettings()
    if profile is not None:
        from anatrust.pipeline.profile import Profile

        section = Profile.load(profile).rejection
        base = section.settings if section else base
    if given.get("no_gates"):
        fields["gates"] = replace(base.gates, enabled=False)
    return replace(base, **fields)
