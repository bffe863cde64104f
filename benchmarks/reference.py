"""Annotation from references: retrieval, registration against plain SimpleITK, parts of the language model; medians.

Usage: make bench, or .venv/bin/python benchmarks/reference.py [--rounds 3] [--only PART] [-o FILE]

Phantom patients (no download). Registration: ours (search, affine, demons), ours without demons, and the recipe of
SimpleITK's examples (centred affine, mutual information, all voxels, three levels). What each reaches is printed with
its time: mean Dice of the large organs.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
import tracemalloc
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import numpy as np
import SimpleITK as sitk  # noqa: N813 - its own usual name
from PIL import Image

from anatrust.image.orientation import canonical
from anatrust.image.volumes import LabelMap, Scan
from anatrust.models.annotation import Reference
from anatrust.models.registration import RegistrationSettings, register
from anatrust.reference import CorrespondenceReasoner, ReferenceBank, RegistrationReasoner, ScanDescriptor, slices_of
from anatrust.studies.phantom import phantom_scan

ORGANS = ("liver", "spleen", "kidney_left", "kidney_right")


def patient(seed: int) -> Reference:
    made = phantom_scan(seed, lesions=0, quick=True)
    return Reference(made.scan, made.anatomy, f"phantom {seed}")


def mean_dice(moved: np.ndarray, truth: LabelMap) -> float:
    numbers = [n for n, name in truth.names.items() if name in ORGANS]
    wanted = canonical(truth.array, truth.grid)[0]
    pairs = [((moved == n), (wanted == n)) for n in numbers]
    return float(np.mean([2 * (a & b).sum() / max(1, a.sum() + b.sum()) for a, b in pairs]))


def plain_recipe(target: Scan, reference: Reference) -> np.ndarray:
    """The affine of SimpleITK's own examples, on all voxels; labels moved to the target."""
    images = []
    for scan in (target, reference.scan):
        array = canonical(scan.array, scan.grid)[0].astype(np.float32)
        image = sitk.GetImageFromArray(np.ascontiguousarray(array.T))
        image.SetSpacing([float(s) for s in scan.grid.spacing])
        images.append(image)
    fixed, moving = images
    method = sitk.ImageRegistrationMethod()
    method.SetNumberOfThreads(1)
    method.SetMetricAsMattesMutualInformation(50)
    method.SetInterpolator(sitk.sitkLinear)
    method.SetOptimizerAsGradientDescent(1.0, 100, 1e-6, 10)
    method.SetOptimizerScalesFromPhysicalShift()
    method.SetShrinkFactorsPerLevel([4, 2, 1])
    method.SetSmoothingSigmasPerLevel([2, 1, 0])
    start = sitk.CenteredTransformInitializer(
        fixed, moving, sitk.AffineTransform(3), sitk.CenteredTransformInitializerFilter.GEOMETRY
    )
    method.SetInitialTransform(start, True)
    method.Execute(fixed, moving)
    labels = sitk.GetImageFromArray(np.ascontiguousarray(canonical(reference.labels.array, reference.labels.grid)[0].T))
    labels.SetSpacing(moving.GetSpacing())
    return sitk.GetArrayFromImage(sitk.Resample(labels, fixed, start, sitk.sitkNearestNeighbor)).T


def ours(target: Scan, reference: Reference, settings: RegistrationSettings) -> np.ndarray:
    found = register(target, reference.scan, settings)
    return found.move(canonical(reference.labels.array, reference.labels.grid)[0].astype(np.uint16), nearest=True)


def measured(job: Callable[[], object], rounds: int) -> dict[str, float]:
    """Median seconds of wall clock, and the peak of Python's allocations in a further run."""
    times = []
    for _ in range(rounds):
        start = time.perf_counter()
        job()
        times.append(time.perf_counter() - start)
    tracemalloc.start()
    job()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return {"seconds": round(statistics.median(times), 4), "python_peak_mb": round(peak / 2**20, 1)}


def language_parts(rounds: int) -> dict[str, object]:
    """Tokens a second, memory attention against a loop over queries and slots, and the size of each component.

    The models are random and tiny, of the real classes: the figures say what our code costs around them, not what a
    model of seven billion parameters does. That is estimated by ``anatrust train STAGE PLAN --estimate MACHINE``.
    """
    import tempfile

    import torch

    from anatrust.models.sam2_memory import Sam2Parts
    from anatrust.models.vision_language import VisionLanguageModel
    from anatrust.reference.memory_attention import MemoryAttention, MemoryConfig
    from anatrust.studies.tiny_models import tiny_qwen, tiny_sam2

    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        language = VisionLanguageModel.load(tiny_qwen(Path(folder) / "qwen"))
        sam = Sam2Parts.load(tiny_sam2(Path(folder) / "sam2"))
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 255, (112, 112, 3)).astype(np.uint8))
    given = language.inputs(["where is the liver?"], [[picture] * 3])
    count = 64
    reply = {"max_new_tokens": count, "min_new_tokens": count, "do_sample": False, "pad_token_id": 0}
    written = measured(lambda: language.model.generate(**given, **reply), rounds)

    # The sizes of RAU at full scale: 14 regions, 4096 spatial tokens of 64, states of 3584.
    torch.manual_seed(0)
    states, memory = torch.randn(14, 3584), torch.randn(4096, 64)
    attention = MemoryAttention(MemoryConfig(3584, 256, 64, 256)).eval()
    regions = torch.randint(0, 14, (4096,))

    def naive() -> torch.Tensor:
        query, items = attention.project(states), attention.lift(memory)
        centred = items - items.mean(0)
        rows = []
        for q in query:
            scores = torch.stack([torch.cosine_similarity(q, m, dim=0) for m in centred]) / 0.07
            weights = scores.softmax(0)
            rows.append(attention.norm(sum(w * m for w, m in zip(weights, items, strict=True))))
        return torch.stack(rows)

    with torch.no_grad():
        apart = float((attention(states, memory, regions).value - naive()).abs().max())
        ours = measured(lambda: attention(states, memory, regions), rounds)
        loop = measured(naive, 1)
        image = torch.rand(1, 224, 224)
        seen = sam.features(sam.prepare(image))
        masks = torch.zeros(3, 224, 224)
        masks[:, 50:120, 60:150] = 1
        steps = {
            "SAM 2 features of an image": measured(lambda: sam.features(sam.prepare(image)), rounds),
            "SAM 2 memory of 3 regions": measured(lambda: sam.memorise(seen, masks), rounds),
        }

    def megabytes(module: torch.nn.Module) -> float:
        return round(sum(p.numel() * p.element_size() for p in module.parameters()) / 2**20, 3)

    return {
        "tokens a second, tiny Qwen2.5-VL": round(count / written["seconds"], 1),
        "memory attention, 14 queries, 4096 tokens": {
            "ours": ours, "loop over queries and tokens": loop, "largest difference": apart
        },
        **steps,
        "weights in MB": {
            "language model (tiny)": megabytes(language.model), "SAM 2 (tiny)": megabytes(sam),
            "memory attention (full size)": megabytes(attention),
            "memory of one region at 1024² (full size)": round(4096 * 64 * 4 / 2**20, 3),
        },
    }  # fmt: skip


def registrations(target: Reference, others: list[Reference], rounds: int) -> dict[str, object]:
    """Time and Dice of each way to register."""
    ways: dict[str, Callable[[], np.ndarray]] = {
        "affine + demons": lambda: ours(target.scan, others[0], RegistrationSettings(mirrored=False)),
        "affine + demons, no turned views": lambda: ours(
            target.scan, others[0], RegistrationSettings(mirrored=False, turned=False)
        ),
        "affine only": lambda: ours(
            target.scan, others[0], RegistrationSettings(deformation="none", mirrored=False, turned=False)
        ),
        "plain SimpleITK affine": lambda: plain_recipe(target.scan, others[0]),
    }
    return {
        name: {**measured(way, rounds), "dice": round(mean_dice(way(), target.labels), 3)} for name, way in ways.items()
    }


def annotations(target: Reference, others: list[Reference], _rounds: int) -> dict[str, object]:
    """Time and Dice of the reasoners."""
    reasoners = {
        "registration, k = 1": (RegistrationReasoner(), 1),
        "registration, k = 5": (RegistrationReasoner(), 5),
        "correspondence, k = 1": (CorrespondenceReasoner(), 1),
    }
    annotated = {}
    for name, (reasoner, k) in reasoners.items():
        answer = reasoner.annotate(target.scan, others[:k])
        moved = canonical(answer.labels.array, answer.labels.grid)[0]
        job = lambda reasoner=reasoner, k=k: reasoner.annotate(target.scan, others[:k])  # noqa: E731
        annotated[name] = {**measured(job, 1), "dice": round(mean_dice(moved, target.labels), 3)}
    return annotated


def retrievals(target: Reference, others: list[Reference], rounds: int) -> dict[str, object]:
    """Time to describe, to build a bank, and to ask it."""
    slices = [s for one in others for s in slices_of(one)]
    owners = [k for k, one in enumerate(others) for _ in slices_of(one)]
    bank = ReferenceBank.build(slices, owners)
    query = list(slices_of(target))[18].scan
    return {
        "references": len(slices),
        "describe one": measured(lambda: ScanDescriptor().describe(query), 10 * rounds),
        "build": measured(lambda: ReferenceBank.build(slices, owners), 1),
        "retrieve five": measured(lambda: bank.retrieve(query, 5), 10 * rounds),
    }


PARTS: dict[str, Callable[[Reference, list[Reference], int], dict[str, object]]] = {
    "registration": registrations,
    "annotation": annotations,
    "retrieval": retrievals,
    "language": lambda _target, _others, rounds: language_parts(rounds),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("-o", "--output", type=Path, default=Path("benchmarks/results/reference.json"))
    parser.add_argument("--only", choices=PARTS, action="append", help="measure these parts anew and keep the others")
    arguments = parser.parse_args()
    target, *others = (patient(seed) for seed in (3, 11, 12, 13, 14, 15))
    result: dict[str, object] = {}
    if arguments.only and arguments.output.is_file():
        result = json.loads(arguments.output.read_text(encoding="utf-8"))
    for name, part in PARTS.items():
        if not arguments.only or name in arguments.only:
            result[name] = part(target, others, arguments.rounds)
    record = {
        **result,
        "voxels": int(np.prod(target.scan.grid.shape)),
        "rounds": arguments.rounds,
        "machine": f"{platform.system()} {platform.machine()}, one thread a registration",
        "versions": {name: version(name) for name in ("numpy", "scipy", "SimpleITK", "torch", "transformers")},
    }
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    arguments.output.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(record, indent=1))


if __name__ == "__main__":
    main()
