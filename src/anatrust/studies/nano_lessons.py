"""What `rau-nano` learns before it is asked anything: which region of the reference each patch of the target shows.

Real vision-language models come with places and pictures connected; ours starts from nothing, and from one
word an answer the use of the reference was never found. Here every patch teaches. Where the model reads the
reference, a patch tells the name of the organ it shows; in the tinted reference the number of its tint; in the
target its organ, and the number that *the reference* gives to this organ, which is a matching task that no name
answers, for numbers are drawn anew for every pair. Patches tell it from halfway up, so that layers above can read it.

Half the heads of two layers are told where to look, which patches alone do not teach: before lessons in looking, words
looked at the outlined region as much as at any other and answered by chance. Patches of the target look at the same
region of the tinted reference. Every word after the legend looks at the outlined region and tells its number, or its
name where the legend has names; each ``<Seg>`` looks at its region of the target, and tells which patches it covers.
The thought and the form of answers come with supervised training.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from anatrust.reference.pairs import LabelledPicture, Pair, Sample, draw_pairs
from anatrust.reference.prompts import NULL
from anatrust.studies.nano_anatomy import ORGANS
from anatrust.studies.nano_attention import looks_of_heads, watched
from anatrust.studies.nano_sight import patch_shares

if TYPE_CHECKING:  # torch is heavy, and a study's module is imported for its names alone
    from torch import Tensor

    from anatrust.models.vision_language import VisionLanguageModel

__all__ = [
    "Lesson",
    "matched_patches",
    "numbers_of_patches",
    "patch_states",
    "read_patches",
    "teach_matching",
]

Progress = Callable[[int, int, Mapping[str, float]], None]
_KINDS = len(ORGANS) + 1
# Weights of what patches tell: of the reference, tinted, of the target its numbers and its organs.
_PICTURES = (0.3, 0.3, 1.0, 0.3)
# Patches of fat count, too: a region missing from the legend is told from one that is there.
_OUTSIDE = 0.5
# Share of the steps in which words need not tell numbers and places yet.
_FIRST = 0.25
_WEIGHTS = {"patches": 1.0, "matching": 0.5, "pointing": 0.3, "words": 1.0, "numbers": 1.0, "places": 0.3}
# Of an answer, up to the region's number.
_BEGINNING = "<think>In the reference "


def numbers_of_patches(pair: Pair, patch: int) -> npt.NDArray[np.float32]:
    """What the patches of the three pictures show, ``(4, patches, 13)`` shares.

    Organs in the reference, its numbers in the tinted reference, in the target the numbers that the reference gives
    to what is there, and the target's organs; 0 is everything else.
    """
    table = np.zeros(_KINDS, dtype=np.int64)
    for number, label in pair.labels.items():
        table[label] = number
    own = (pair.reference.labels, pair.target.labels)
    shown = (own[0], *(table[labels] for labels in own), own[1])
    return np.stack([patch_shares(values, _KINDS, patch) for values in shown])


def patch_states(model: VisionLanguageModel, given: Any) -> tuple[Tensor, Tensor]:
    """Last hidden states of everything; of patches those from halfway up to the layer before the last.

    The second is ``(layers · B, 3, patches, hidden)``.
    """
    import torch

    network: Any = model.model.model
    found = network(**given, output_hidden_states=True)
    ids = given["input_ids"]
    at = (ids == model.model.config.image_token_id).nonzero()
    layers = found.hidden_states[len(found.hidden_states) // 2 : -1]
    patches = network.language_model.norm(torch.stack([layer[at[:, 0], at[:, 1]] for layer in layers]))
    return found.last_hidden_state, patches.reshape(len(layers) * len(ids), 3, -1, patches.shape[-1])


def read_patches(model: VisionLanguageModel, patches: Tensor, told: int) -> Tensor:
    """Scores of the 13 words that patches may tell, ``(B, patches, 13)``; ``told`` as :func:`numbers_of_patches`."""
    words = [str(n) for n in range(1, _KINDS)] if told in (1, 2) else ORGANS
    rows = model.processor.tokenizer.convert_tokens_to_ids([NULL, *words])
    scores: Tensor = patches[:, min(told, 2)] @ model.model.lm_head.weight[rows].T
    return scores


class Lesson:
    """One batch of pairs as the model reads them, and what its patches and ``<Seg>`` tokens are to tell.

    Half the pairs are questions for the outlined region's number or name, half ask for ``<Seg>`` tokens.

    Parameters
    ----------
    model
        Its processor prepares everything.
    pairs
        Of pictures of the size that the model sees.
    rng
        Chooses outlines.
    change
        What the pictures are changed to, for controls.
    """

    def __init__(
        self,
        model: VisionLanguageModel,
        pairs: Sequence[Pair],
        rng: np.random.Generator,
        change: Callable[[Pair, Sample], Sample] | None = None,
    ) -> None:
        import torch

        self.model = model
        patch = int(model.model.config.vision_config.patch_size)
        samples = [pair.sample("segment" if k % 2 else "name", rng) for k, pair in enumerate(pairs)]
        if change is not None:
            samples = [change(pair, sample) for pair, sample in zip(pairs, samples, strict=True)]
        answers = [s.answer if s.task == "segment" else _BEGINNING + _called(s) for s in samples]
        self.given = model.inputs([s.prompt for s in samples], [s.pictures for s in samples], answers)
        ids = self.given["input_ids"]
        self.labels = torch.full_like(ids, -100)
        self.number = torch.full_like(ids, -100)
        for row, (sample, answer) in enumerate(zip(samples, answers, strict=True)):
            if sample.task == "segment":
                length = len(model.processor.tokenizer.encode(answer)) + 1
                self.labels[row, -length:] = ids[row, -length:]
            elif sample.number is not None:
                last = int((ids[row] == model.processor.tokenizer.convert_tokens_to_ids("}")).nonzero()[-1])
                # The number itself and the end of the turn come last.
                self.number[row, last:-2] = ids[row, -2]
        self.shares = torch.from_numpy(np.stack([numbers_of_patches(pair, patch) for pair in pairs]))
        covered = []
        for row, (pair, sample) in enumerate(zip(pairs, samples, strict=True)):
            if sample.task == "segment":
                covered += [self._cover(pair, number) for number in sample.masks]
            elif sample.number is not None:
                told = int((self.number[row] != -100).sum())
                covered += [self._cover(pair, sample.number)] * told
        self.where = torch.from_numpy(np.array(covered, dtype=np.float32).reshape(-1, self.shares.shape[2]))
        self.asked = (self.number != -100) | ((ids == model.seg) & (self.labels != -100))

    def _cover(self, pair: Pair, number: int) -> npt.NDArray[np.float32]:
        patch = int(self.model.model.config.vision_config.patch_size)
        return patch_shares(pair.mask(number).astype(np.uint8), 2, patch)[:, 1]

    def states(self) -> tuple[Tensor, Tensor]:
        """Last hidden states of everything, and :func:`patch_states`."""
        return patch_states(self.model, self.given)

    def losses(self, where: Any) -> dict[str, Tensor]:
        """Of patches, of looks, of what words tell, of places told through ``where`` (a linear reading), of words."""
        from torch.nn.functional import cross_entropy, log_softmax

        layers = _layers(self.model)
        with watched(self.model, layers) as entered:
            hidden, patches = self.states()
        found = self._looks([entered[layer] for layer in layers])
        total = hidden.new_zeros(())
        for picture, share in enumerate(_PICTURES):
            truth = self.shares[:, picture].repeat(len(patches) // len(self.shares), 1, 1)
            # By the root of its area: a small region counts for less than a large one, but not as its patches.
            weight = truth / truth.sum(1, keepdim=True).sqrt().clamp_min(1e-6)
            weight[..., 0] *= _OUTSIDE
            told = log_softmax(read_patches(self.model, patches, picture), -1)
            total = total - share * (told * weight).sum() / weight.sum()
        found["patches"] = total
        numbers = self.number != -100
        if bool(numbers.any()):
            found["numbers"] = cross_entropy(self.model.model.lm_head(hidden[numbers]), self.number[numbers])
        if bool(self.asked.any()):
            found["places"] = cross_entropy(where(hidden[self.asked]), _shared(self.where))
        if bool((self.labels != -100).any()):
            words = self.labels[:, 1:] != -100
            scores = self.model.model.lm_head(hidden[:, :-1][words])
            found["words"] = cross_entropy(scores, self.labels[:, 1:][words])
        return found

    def _looks(self, entered: Sequence[Any]) -> dict[str, Tensor]:
        """Of the target's patches at the same region of the tinted reference, of words at the outlined region."""
        import torch

        mask, pads = self.given["attention_mask"], self._patches()
        heads = max(1, int(self.model.model.config.text_config.num_attention_heads) // 2)
        rows = torch.arange(len(pads))[:, None, None]
        looks = looks_of_heads(entered[0], mask, heads)[rows, :, pads[:, 2, :, None], pads[:, 1, None]].mean(-1)
        share = self.shares[:, 2, :, 1:]
        goal = share @ _shared(self.shares[:, 1, :, 1:].transpose(1, 2))
        weight = (share / share.sum(1, keepdim=True).sqrt().clamp_min(1e-6)).sum(-1, keepdim=True)
        weight = weight / share.sum(-1, keepdim=True).clamp_min(1e-6)
        found = {"matching": -(looks * goal * weight).sum() / (goal * weight).sum().clamp_min(1e-6)}
        if bool(self.asked.any()):
            goal = _shared(self.where)
            looks = self._looks_of_words(entered[1], heads).mean(-1)
            found["pointing"] = -(looks * goal).sum() / goal.sum().clamp_min(1e-6)
        return found

    def _patches(self) -> Tensor:
        """Where in the text the patches of each picture stand, ``(B, 3, patches)``."""
        ids = self.given["input_ids"]
        places: Tensor = (ids == self.model.model.config.image_token_id).nonzero()[:, 1].reshape(len(ids), 3, -1)
        return places

    def _looks_of_words(self, entered: Any, heads: int) -> Tensor:
        """Logarithms of what asked words and ``<Seg>`` give the target's patches, ``(N, patches, heads)``."""
        row, place = self.asked.nonzero(as_tuple=True)
        looks = looks_of_heads(entered, self.given["attention_mask"], heads)
        return looks[row[:, None], :, place[:, None], self._patches()[row, 2]]

    def pointed(self) -> dict[str, float]:
        """Share of their attention that words and ``<Seg>`` give the patches they ask about, of the best head.

        Returns
        -------
        dict
            For ``words`` and ``seg``; ``area`` is the share of all patches that these are, what a blind look gives.
        """
        import torch

        layer = _layers(self.model)[1]
        with torch.no_grad(), watched(self.model, (layer,)) as entered:
            self.states()
            every = int(self.model.model.config.text_config.num_attention_heads)
            looks = self._looks_of_words(entered[layer], every).exp()
        inside = self.where > 0
        given = (looks * inside[..., None]).sum(1)
        seg = self.labels[self.asked] != -100
        told = {"words": given[~seg], "seg": given[seg]}
        found = {name: float(rows.mean(0).max()) for name, rows in told.items() if len(rows)}
        return found | {"area": float(inside.float().mean())}


def _called(sample: Sample) -> str:
    """What the legend calls the outlined region."""
    if sample.number is None:
        return NULL
    numbers = [number for number, _ in sample.legend.entries]
    return sample.legend.answers[numbers.index(sample.number)]


def _layers(model: VisionLanguageModel) -> tuple[int, int]:
    """In which patches look at the reference, the last whose patches need not tell; in which words look at patches."""
    depth = len(model.model.model.language_model.layers)
    return (depth + 1) // 2 - 1, depth - 1


def _shared(values: Tensor) -> Tensor:
    """The same with a sum of one in the last direction; nothing stays nothing."""
    return values / values.sum(-1, keepdim=True).clamp_min(1e-6)


def matched_patches(
    model: VisionLanguageModel,
    pairs: Sequence[Pair],
    seed: int = 0,
    change: Callable[[Pair, Sample], Sample] | None = None,
) -> float:
    """Share of the target's patches, of those that an organ fills most of, whose number in the reference is told."""
    import torch

    lesson = Lesson(model, pairs, np.random.default_rng(seed), change)
    with torch.no_grad():
        told = read_patches(model, lesson.states()[1], 2).argmax(-1)
    truth = lesson.shares[:, 2].argmax(-1)
    told = told[-len(truth) :]
    return float((told == truth)[truth > 0].float().mean())


def teach_matching(
    model: VisionLanguageModel,
    pictures: Sequence[LabelledPicture],
    steps: int,
    seed: int,
    folder: Path,
    *,
    batch: int = 32,
    rate: float = 2e-3,
    save_every: int = 50,
    progress: Progress | None = None,
) -> list[float]:
    """Train all of the model in place; a run begun in ``folder`` goes on with the losses it would have had.

    In the first third of the steps the target is at times the reference itself, half the time at first.

    Parameters
    ----------
    model
        Whose vision tower sees already.
    pictures
        Of training patients, all of the size that the model sees.
    steps, batch, rate, seed
        Of the training: AdamW, one cycle.
    folder, save_every
        Of checkpoints.
    progress
        Called with step, steps and the losses.

    Returns
    -------
    list of float
        The loss of every step.
    """
    import torch

    from anatrust.reference.checkpoints import load_state, save_state

    torch.manual_seed(seed)
    config: Any = model.model.config
    cells = int(config.vision_config.num_position_embeddings)
    where = torch.nn.Linear(model.hidden, cells)
    model.model.requires_grad_(True)
    named = {f"where.{k}": p for k, p in where.named_parameters()} | dict(model.model.named_parameters())
    optimiser = torch.optim.AdamW(named.values(), lr=rate, betas=(0.9, 0.98))
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, rate, total_steps=max(2, steps), pct_start=0.1)
    losses: list[float] = []
    begun = sorted(folder.glob("step-*"))
    if begun:
        found = load_state(begun[-1] / "state")
        with torch.no_grad():
            for name, parameter in named.items():
                parameter.copy_(found["weights"][name])
        optimiser.load_state_dict(found["optimizer"])
        schedule.load_state_dict(found["schedule"])
        losses = [float(v) for v in found["losses"]]
    pairs = islice(draw_pairs(pictures, seed, hidden=0.6), len(losses) * batch, None)
    model.model.train()
    for step in range(len(losses), steps):
        rng = np.random.default_rng([seed, 52, step])
        easy = 0.5 * max(0.0, 1 - 3 * step / steps)
        drawn = [
            Pair(p.reference, p.reference, p.legend, p.labels) if rng.random() < easy else p
            for p in islice(pairs, batch)
        ]
        told = Lesson(model, drawn, rng).losses(where)
        # What words are to tell can only be read once the patches know it: before, it would be noise.
        weights = _WEIGHTS | (dict.fromkeys(("numbers", "places"), 0.0) if step < _FIRST * steps else {})
        loss = torch.stack([weights[name] * value for name, value in told.items()]).sum()
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(list(named.values()), 1.0)
        optimiser.step()
        schedule.step()
        optimiser.zero_grad()
        losses.append(float(loss.detach()))
        if progress:
            progress(step + 1, steps, {name: float(value.detach()) for name, value in told.items()})
        if (step + 1) % save_every == 0 and step + 1 < steps:
            state = {"weights": named, "optimizer": optimiser.state_dict(), "schedule": schedule.state_dict()}
            fresh = folder / "unfinished"
            fresh.mkdir(parents=True, exist_ok=True)
            save_state(fresh / "state", state | {"losses": losses})
            # Renamed when it is whole; only then the one before goes.
            fresh.rename(folder / f"step-{step + 1:06d}")
            for old in sorted(folder.glob("step-*"))[:-1]:
                shutil.rmtree(old)
    model.model.requires_grad_(False)
    model.model.eval()
    return losses
