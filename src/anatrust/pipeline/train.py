"""RAU's three training stages from a cohort table and one YAML file."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast, get_args

import numpy as np

from anatrust.errors import InputError, MissingExtraError
from anatrust.image.orientation import canonical
from anatrust.image.read import read_mask, read_scan
from anatrust.models.device import check_device
from anatrust.pipeline.case import content_hash, label_table
from anatrust.pipeline.cohort import Cohort
from anatrust.pipeline.outputs import replace_json, run_record
from anatrust.reference.coordinates import Convention

if TYPE_CHECKING:
    from anatrust.reference.pairs import LabelledPicture
    from anatrust.reference.training_cost import TrainingCost

__all__ = ["Stage", "TrainingPlan", "estimate", "labelled_pictures", "train"]

Stage = Literal["sft", "grpo", "seg"]
Progress = Callable[[int, int, Mapping[str, float]], None]
_LARGEST_PLAN = 2**20


@dataclass(frozen=True)
class TrainingPlan:
    """One stage's configuration, as its YAML file says it.

    Parameters
    ----------
    model
        Folder of the vision-language model, or its name in the local Hugging Face cache.
    cohort, output
        Table with ``image`` and ``truth``; folder for everything the stage writes.
    adapters
        Folders of the stages before, in order.
    sam2, level, bottleneck
        For ``seg``: folder or name of SAM 2, what its memory is (`TokenSegmenter`), and the projection's width.
    gated, parts
        For ``seg``: whether the memory's slots have learnt gates, and the organs' tree (the name of each part's
        whole): parts are asked for after their whole.
    masks
        For ``grpo`` with the task ``segment``: what ``seg`` saved, drawn by ``sam2`` and rewarded by Dice.
    names
        Table of label names, see :func:`anatrust.pipeline.case.label_table`.
    slices
        Axial slices of a volume, those with the most labelled voxels.
    convention
        How boxes are written: ``pixels`` for Qwen2.5-VL, ``thousand`` for Qwen3-VL.
    device
        Of torch.
    settings
        Of the stage; what is left out has the paper's value.
    """

    model: str
    cohort: Path
    output: Path
    adapters: tuple[str, ...] = ()
    sam2: str = ""
    masks: str = ""
    level: str = "added"
    bottleneck: int = 256
    gated: bool = False
    parts: Mapping[str, str] = field(default_factory=dict)
    names: str | None = None
    slices: int = 8
    convention: str = "thousand"
    device: str = "cpu"
    settings: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def read(cls, path: Path) -> TrainingPlan:
        """Read a YAML file; paths in it are relative to it.

        Raises
        ------
        InputError
            If it is not there or no YAML, or holds a key that is not known.
        """
        try:
            import yaml
        except ImportError:
            raise MissingExtraError("pyyaml", "train", "training") from None
        if not path.is_file() or path.stat().st_size > _LARGEST_PLAN:
            raise InputError(f"there is no training plan {path}: give a YAML file, see docs/how-to/train-rau.md")
        try:
            plain = yaml.safe_load(path.read_text(encoding="utf-8"))
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise InputError(f"{path.name} is not YAML ({str(error).splitlines()[0]})") from None
        known = {f.name for f in dataclasses.fields(cls)}
        if not isinstance(plain, dict) or not all(isinstance(key, str) for key in plain):
            raise InputError(f"{path.name} holds no settings: write lines like 'model: FOLDER'")
        for wrong in sorted(set(plain) - known):
            raise InputError(f"{path.name}: there is no setting '{wrong}'; choose among {', '.join(sorted(known))}")
        for needed in ("model", "cohort", "output"):
            if not isinstance(plain.get(needed), str):
                raise InputError(f"{path.name} lacks '{needed}'")
        here = path.parent
        for key in ("cohort", "output"):
            plain[key] = here / plain[key]
        for key in ("model", "sam2", "masks"):
            plain[key] = _place(here, str(plain.get(key, "")))
        plain["adapters"] = tuple(_place(here, str(a)) for a in plain.get("adapters") or ())
        plain["settings"] = plain.get("settings") or {}
        plain["parts"] = plain.get("parts") or {}
        if not isinstance(plain["parts"], dict) or not all(
            isinstance(v, str) for kv in plain["parts"].items() for v in kv
        ):
            raise InputError(f"{path.name}: parts is a table of names, a part and its whole each line")
        if not isinstance(plain.get("gated", False), bool):
            raise InputError(f"{path.name}: gated is true or false, not {plain['gated']!r}")
        if plain.get("convention", "thousand") not in get_args(Convention):
            raise InputError(
                f"{path.name}: convention is {', '.join(get_args(Convention))}, not {plain['convention']!r}"
            )
        return cls(**plain)


def _place(here: Path, text: str) -> str:
    """A folder beside the plan, or else a model's name."""
    return str(here / text) if text and (here / text).is_dir() else text


def labelled_pictures(
    cohort: Cohort, *, names: str | None = None, slices: int = 8, warn: Callable[[str], None] | None = None
) -> list[LabelledPicture]:
    """The labelled slices of a cohort, as the reader of pictures sees them: axial, patient's right on the left.

    Grey values from the 1st to the 99th percentile become 0 to 1. Scans without a truth, or with an
    empty one, are left out.

    Parameters
    ----------
    cohort
        With ``image`` and ``truth``.
    names
        Table of label names; labels without a name are called ``label N``.
    slices
        Of each volume, those with the most labelled voxels.
    warn
        Told about rows left out.

    Raises
    ------
    InputError
        If a file cannot be read, or nothing is left.
    """
    from anatrust.reference.pairs import LabelledPicture
    from anatrust.reference.pictures import greys, view_of

    table = label_table(names)
    found = []
    for row in cohort.rows:
        if row.truth is None:
            if warn:
                warn(f"row {row.number} has no truth and is left out")
            continue
        scan = read_scan(row.image)
        labels = read_mask(row.truth, reference=scan.grid)
        called = {n: {**labels.names, **table}.get(n, f"label {n}") for n in labels.labels()}
        image = greys(scan)
        truth = canonical(labels.array, labels.grid)[0]
        if image.ndim == 2:
            chosen = [(view_of(image), view_of(truth))]
        else:
            sizes = (truth > 0).sum((0, 1))
            best = [int(k) for k in np.argsort(-sizes, kind="stable")[:slices] if sizes[k] > 0]
            chosen = [(view_of(image[:, :, k]), view_of(truth[:, :, k])) for k in sorted(best)]
        for grey, regions in chosen:
            if regions.any():
                found.append(LabelledPicture(grey, regions, called, row.patient))
    if not found:
        raise InputError(f"{cohort.source}: no scan has a truth with labels; fill in the column truth")
    return found


def train(
    stage: Stage,
    plan: TrainingPlan,
    *,
    progress: Progress | None = None,
    warn: Callable[[str], None] | None = None,
) -> list[float]:
    """Run one stage; a run begun in the same output folder goes on where it stopped.

    Parameters
    ----------
    stage
        ``sft`` (answers), ``grpo`` (rewards) or ``seg`` (masks).
    plan
        Its configuration.
    progress
        Called with step, steps and figures.
    warn
        Told about rows left out.

    Returns
    -------
    list of float
        Loss of every step; for ``grpo`` the mean reward. Also in ``run.json`` of the output folder.

    Raises
    ------
    InputError
        If anything in the plan or the cohort is wrong.
    MissingExtraError
        If the extra ``train`` is not installed.
    """
    if stage not in get_args(Stage):
        raise InputError(f"there is no stage '{stage}': choose sft, grpo or seg")
    for package in ("torch", "transformers", "peft", "trl", "datasets"):
        if find_spec(package) is None:
            raise MissingExtraError(package, "train", "training")
    if stage == "seg" and not plan.sam2:
        raise InputError("the stage seg needs 'sam2' in its plan: a folder, or a name in the local cache")
    check_device(plan.device)
    settings = _settings(stage, plan.settings)
    if stage == "grpo" and "segment" in settings.tasks and not (plan.sam2 and plan.masks):
        raise InputError("the task segment needs 'sam2' and 'masks' in its plan: SAM 2, and what the stage seg saved")
    cohort = Cohort.read(plan.cohort)
    pictures = labelled_pictures(cohort, names=plan.names, slices=plan.slices, warn=warn)
    from anatrust.models.vision_language import VisionLanguageModel

    begin = time.perf_counter()
    device, first = _place_of_this_process(plan.device)
    model = VisionLanguageModel.load(plan.model, adapters=plan.adapters, device=device)
    plan.output.mkdir(parents=True, exist_ok=True)
    if stage == "seg":
        from anatrust.models.sam2_memory import Sam2Parts
        from anatrust.reference.mask_training import train_masks
        from anatrust.reference.token_segmenter import Level, TokenSegmenter

        sam = Sam2Parts.load(plan.sam2).to(device)
        segmenter = TokenSegmenter.make(
            model, sam, cast(Level, plan.level), plan.bottleneck, gated=plan.gated, parts=plan.parts
        )
        with _curves(plan.output / "runs", progress) as told:
            figures = train_masks(segmenter, pictures, settings, plan.output, progress=told)
    else:
        from anatrust.reference import text_training

        run = text_training.train_sft if stage == "sft" else text_training.train_grpo
        more: dict[str, Any] = {}
        if stage == "grpo" and "segment" in settings.tasks:
            from anatrust.models.sam2_memory import Sam2Parts
            from anatrust.reference.token_segmenter import TokenSegmenter

            more["segmenter"] = TokenSegmenter.load(Path(plan.masks), model, Sam2Parts.load(plan.sam2).to(device))
        convention = cast(Convention, plan.convention)
        figures = run(model, pictures, settings, plan.output, convention=convention, progress=progress, **more)
    record = run_record(
        command=f"train {stage}",
        configuration={
            "settings": dataclasses.asdict(settings), "level": plan.level, "gated": plan.gated,
            "parts": dict(plan.parts), "convention": plan.convention, "slices": plan.slices,
            "pictures": len(pictures), "patients": len({p.patient for p in pictures}),
        },
        inputs={"cohort": {"name": plan.cohort.name, "sha256": content_hash(plan.cohort)}},
        seed=settings.seed,
        timings={"train": round(time.perf_counter() - begin, 3)},
        outputs=sorted(plan.output.glob("*.safetensors")),
    )  # fmt: skip
    if first:
        replace_json(plan.output / "run.json", record | {"figures": figures})
    return figures


@contextmanager
def _curves(folder: Path, progress: Progress | None) -> Iterator[Progress]:
    """A progress that also draws TensorBoard curves, as TRL's trainers do for the other stages."""
    from torch.utils.tensorboard import SummaryWriter

    with SummaryWriter(folder) as writer:

        def told(step: int, steps: int, numbers: Mapping[str, float]) -> None:
            for name, value in numbers.items():
                writer.add_scalar(f"train/{name}", value, step)
            if progress:
                progress(step, steps, numbers)

        yield told


def _place_of_this_process(device: str) -> tuple[str, bool]:
    """The device of this process, of several that accelerate launched, and whether it is the first of them."""
    from accelerate import PartialState

    state = PartialState(cpu=not device.startswith("cuda"))
    return (f"cuda:{state.local_process_index}" if device == "cuda" else device), bool(state.is_main_process)


def _settings(stage: Stage, given: Mapping[str, Any]) -> Any:
    from anatrust.models.vision_language import LoraSettings
    from anatrust.reference.mask_training import MaskSettings
    from anatrust.reference.text_training import GrpoSettings, SftSettings

    kind: Any = {"sft": SftSettings, "grpo": GrpoSettings, "seg": MaskSettings}[stage]
    known = {f.name for f in dataclasses.fields(kind)}
    for wrong in sorted(set(given) - known):
        raise InputError(f"the stage {stage} has no setting '{wrong}'; choose among {', '.join(sorted(known))}")
    plain = dict(given)
    try:
        if plain.get("lora") is not None:
            plain["lora"] = LoraSettings(**plain["lora"])
        elif "lora" in plain and stage == "seg":
            raise InputError("the stage seg needs an adapter, which carries the <Seg> rows: leave 'lora' out")
        if "tasks" in plain:
            plain["tasks"] = tuple(plain["tasks"])
        return kind(**plain)
    except TypeError as error:
        raise InputError(f"the settings of the stage {stage} cannot be read ({error})") from None


def estimate(stage: Stage, plan: TrainingPlan, machine: str, *, side: int = 448) -> TrainingCost:
    """Memory and hours that a stage will need, from its plan and the model's ``config.json``; nothing is run.

    Parameters
    ----------
    stage, plan
        As for :func:`train`. A batch is of each device, as accelerate takes it.
    machine
        A name in `anatrust.reference.training_cost.MACHINES`.
    side
        Of the pictures, in pixels.

    Raises
    ------
    InputError
        If there is no such machine or stage, or the model is not there or of another family.
    """
    from anatrust.models.encoders.weights import find_weights
    from anatrust.reference.training_cost import MACHINES, ModelSize, mask_cost, reward_cost, supervised_cost

    if machine not in MACHINES:
        raise InputError(f"nothing is known of the machine {machine!r}: choose {', '.join(MACHINES)}")
    if stage not in get_args(Stage):
        raise InputError(f"there is no stage '{stage}': choose sft, grpo or seg")
    chosen, settings = MACHINES[machine], _settings(stage, plan.settings)
    size = ModelSize.of_config(find_weights(plan.model, ("qwen2_5_vl",)).config)
    if stage == "seg":
        return mask_cost(size, chosen, steps=settings.steps, batch=settings.batch, side=side)
    rank = 8 if settings.lora is None else settings.lora.rank
    if stage == "grpo":
        return reward_cost(
            size, chosen, steps=settings.steps, batch=settings.batch, longest=settings.longest, side=side, rank=rank
        )
    return supervised_cost(
        size, chosen, samples=settings.samples, epochs=settings.epochs, batch=settings.batch * chosen.devices,
        side=side, rank=rank,
    )  # fmt: skip
