"""What models anatrust can use, whether they are installed, and under which licence."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Literal, cast

from anatrust.errors import InputError, MissingExtraError
from anatrust.models.device import check_device
from anatrust.models.protocols import AnchorProvider, Segmenter

__all__ = ["ModelEntry", "default_anchors", "load_anchors", "load_segmenter", "registered_models"]

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
    weights
        For segmenters and anchors: what has to be named for them, in words; empty where nothing is.
    module
        For segmenters and anchors: the module of :mod:`anatrust.models.segmenters` (or ``anchors``)
        whose ``load(weights, device)`` makes it; empty where it is not made by name.
    embedded
        For anchors: whether it is asked without being named, where its packages are installed.
    """

    name: str
    kind: Kind
    summary: str
    licence: str
    extra: str = ""
    requires: tuple[str, ...] = ()
    weights: str = ""
    module: str = ""
    embedded: bool = False

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
        "segmenter",
        "encoder",
        "one encoder stage of a saved U-Net: what the segmenter itself has learnt; its folder is the weights",
        "Apache-2.0",
        extra="deep",
        requires=("torch", "safetensors"),
    ),
    ModelEntry(
        "dinov3",
        "encoder",
        "DINOv3 vision transformer, the encoder RW-CP was published with; weights from the local cache or a folder",
        "Apache-2.0; weights: DINOv3 License, gated",
        extra="deep",
        requires=("torch", "safetensors", "transformers"),
    ),
    ModelEntry(
        "dinov2",
        "encoder",
        "DINOv2 vision transformer",
        "Apache-2.0; weights: Apache-2.0",
        extra="deep",
        requires=("torch", "safetensors", "transformers"),
    ),
    ModelEntry(
        "rad-dino",
        "encoder",
        "DINOv2 trained on chest radiographs",
        "Apache-2.0; weights: MSRLA, research only",
        extra="deep",
        requires=("torch", "safetensors", "transformers"),
    ),
    ModelEntry(
        "siglip",
        "encoder",
        "SigLIP, vision half",
        "Apache-2.0; weights: Apache-2.0",
        extra="deep",
        requires=("torch", "safetensors", "transformers"),
    ),
    ModelEntry(
        "medsiglip",
        "encoder",
        "SigLIP trained on medical images and texts, vision half",
        "Apache-2.0; weights: Health AI Developer Foundations terms, gated",
        extra="deep",
        requires=("torch", "safetensors", "transformers"),
    ),
    ModelEntry(
        "clip",
        "encoder",
        "CLIP, vision half",
        "Apache-2.0; weights: MIT",
        extra="deep",
        requires=("torch", "safetensors", "transformers"),
    ),
    ModelEntry(
        "blob",
        "segmenter",
        "whatever stands out from its organ, on several scales; proposes too much and needs no training",
        "Apache-2.0",
        module="blob",
    ),
    ModelEntry(
        "unet",
        "segmenter",
        "small 2-D or 3-D U-Net with its training recipe; no weights come with it",
        "Apache-2.0",
        extra="deep",
        requires=("torch", "safetensors"),
        weights="the folder its training saved",
        module="unet",
    ),
    ModelEntry(
        "onnx",
        "segmenter",
        "any segmentation network in ONNX, with a card beside it that says how it is fed",
        "Apache-2.0; the network's own",
        extra="deep",
        requires=("onnxruntime",),
        weights="a .onnx file with its card (same name, .json) beside it",
        module="onnx",
    ),
    ModelEntry(
        "torchscript",
        "segmenter",
        "any segmentation network in TorchScript, with a card beside it",
        "Apache-2.0; the network's own",
        extra="deep",
        requires=("torch",),
        weights="a TorchScript file with its card (same name, .json) beside it",
        module="torchscript",
    ),
    ModelEntry(
        "monai-bundle",
        "segmenter",
        "a MONAI bundle: network, sliding window and preprocessing read as data, weights in safetensors or TorchScript",
        "Apache-2.0; the bundle's own",
        extra="deep",
        requires=("torch", "safetensors", "monai"),
        weights="the bundle's folder",
        module="monai_bundle",
    ),
    ModelEntry(
        "precomputed",
        "segmenter",
        "what another tool wrote: folders of nnU-Net, TotalSegmentator and MONAI, or one file",
        "Apache-2.0; the tool's own",
        weights="the file or folder the tool wrote",
        module="precomputed",
    ),
    ModelEntry(
        "nnunet",
        "segmenter",
        "nnU-Net v2 in an environment of its own, as a process",
        "Apache-2.0; nnU-Net: Apache-2.0",
        weights="a JSON file with its command, dataset and configuration",
        module="nnunet",
    ),
    ModelEntry(
        "totalsegmentator",
        "segmenter",
        "TotalSegmentator's classes: its output, or a run in an environment of its own",
        "Apache-2.0; TotalSegmentator: Apache-2.0, some tasks licensed",
        weights="its output folder or file, its program, or a JSON file with its command",
        module="totalsegmentator",
    ),
    ModelEntry(
        "sam2",
        "segmenter",
        "SAM 2 and models of its form (MedSAM2): the region as a box, slice by slice",
        "Apache-2.0; weights: Apache-2.0 (SAM 2), others their own",
        extra="deep",
        requires=("torch", "safetensors", "transformers"),
        weights="a folder with config.json and safetensors, or a name in the local Hugging Face cache",
        module="sam2",
    ),
    ModelEntry(
        "sam3",
        "segmenter",
        "SAM 3: a concept in words inside the region, slice by slice; answers for organs too",
        "Apache-2.0; weights: SAM License, gated",
        extra="deep",
        requires=("torch", "safetensors", "transformers"),
        weights="a folder with config.json, tokenizer and safetensors, or a name in the local Hugging Face cache",
        module="sam3",
    ),
    ModelEntry(
        "biomedparse",
        "segmenter",
        "BiomedParse v1 or v2 in an environment of its own, asked in its words; not tried with its gated weights",
        "Apache-2.0; BiomedParse: Apache-2.0, research use, weights gated",
        weights="a JSON file with its Python (command), repository and checkpoint",
        module="biomedparse",
    ),
    ModelEntry(
        "pixel-classifier",
        "segmenter",
        "descriptors at several scales, boosted trees; trained from a labelled cohort in minutes by 'anatrust teach'",
        "Apache-2.0",
        weights="the file 'anatrust teach' wrote",
        module="pixel_classifier",
    ),
    ModelEntry(
        "label-map",
        "anchors",
        "organs of a label map that somebody already has (--anatomy)",
        "Apache-2.0",
    ),
    ModelEntry(
        "totalsegmentator",
        "anchors",
        "organs of TotalSegmentator: its output, or a run in an environment of its own",
        "Apache-2.0; TotalSegmentator: Apache-2.0, some tasks licensed",
        weights="its output folder or file, its program, or a JSON file with its command",
        module="totalsegmentator",
    ),
    ModelEntry(
        "reference",
        "anchors",
        "organs carried over from labelled scans of other people: --anchors reference=FILE.bank",
        "Apache-2.0",
    ),
    ModelEntry(
        "prompted",
        "anchors",
        "asks the segmenter itself for the organ, through mirrored views",
        "Apache-2.0",
    ),
    ModelEntry(
        "organ-unet",
        "anchors",
        "small 3-D U-Net trained on made-up images; offers organs of a Dice of 0.7 on unseen patients, as yet none",
        "Apache-2.0; trained on AMOS22 (CC BY 4.0) and phantoms",
        extra="deep",
        requires=("torch", "safetensors"),
        module="organ_unet",
        embedded=True,
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
    ModelEntry(
        "correspondence",
        "reasoner",
        "dense matching of local features, then a random walk along the image's edges; no training, any encoder",
        "Apache-2.0",
    ),
    ModelEntry(
        "registration",
        "reasoner",
        "affine and demons by SimpleITK, then locally weighted label fusion over the references; no weights",
        "Apache-2.0",
    ),
    ModelEntry(
        "seggpt",
        "reasoner",
        "in-context painting by SegGPT: the reference with one region at a time; the baseline without words",
        "Apache-2.0; the model's own",
    ),
    ModelEntry(
        "vlm",
        "reasoner",
        "asks Qwen2.5-VL or Qwen3-VL, or an OpenAI-compatible server; masks by boxes or by <Seg> tokens and SAM 2",
        "Apache-2.0; the model's own",
    ),
)


def registered_models() -> tuple[ModelEntry, ...]:
    """All entries, in a fixed order.

    Examples
    --------
    >>> [entry.name for entry in registered_models() if entry.kind == "encoder"][:3]
    ['local-descriptors', 'segmenter', 'dinov3']
    """
    return _ENTRIES


def load_segmenter(name: str, weights: str | Path | None = None, *, device: str = "cpu") -> Segmenter:
    """A segmenter by its name in the registry.

    Parameters
    ----------
    name
        See `registered_models`.
    weights
        What the entry's ``weights`` says: a file, a folder, or nothing.
    device
        ``"cpu"`` or ``"cuda"``, for those that compute with torch.

    Raises
    ------
    InputError
        If there is no such segmenter, its packages are missing, or the weights cannot be read.

    Examples
    --------
    >>> load_segmenter("blob").capabilities.prompts
    ('none',)
    """
    return cast(Segmenter, _load("segmenter", "segmenters", name, weights, device))


def load_anchors(name: str, weights: str | Path | None = None, *, device: str = "cpu") -> AnchorProvider:
    """An anchor provider by its name in the registry; parameters and errors as of `load_segmenter`."""
    return cast(AnchorProvider, _load("anchors", "anchors", name, weights, device))


def default_anchors(device: str = "cpu") -> tuple[AnchorProvider, ...]:
    """The embedded anchor providers whose packages are installed, in the registry's order."""
    entries = [entry for entry in _ENTRIES if entry.kind == "anchors" and entry.embedded and entry.installed]
    return tuple(load_anchors(entry.name, device=device) for entry in entries)


def _load(kind: Kind, folder: str, name: str, weights: str | Path | None, device: str) -> object:
    entries = {entry.name: entry for entry in _ENTRIES if entry.kind == kind and entry.module}
    what = "segmenter" if kind == "segmenter" else "anchor provider"
    if name not in entries:
        raise InputError(f"there is no {what} {name!r}: choose one of {', '.join(entries)}")
    if device not in ("cpu", "cuda"):
        raise InputError(f"there is no device {device!r}: choose cpu or cuda")
    entry = entries[name]
    for package in entry.requires:
        if find_spec(package) is None:
            raise MissingExtraError(package, entry.extra, f"the {what} {name!r}")
    if "torch" in entry.requires:
        check_device(device)
    if entry.weights and weights is None:
        raise InputError(f"the {what} {name!r} needs --weights: {entry.weights}")
    if not entry.weights and weights is not None:
        raise InputError(f"the {what} {name!r} takes no weights: leave them out")
    load = import_module(f"anatrust.models.{folder}.{entry.module}").load
    return load(None if weights is None else Path(weights), device)
