"""SAM 2 following regions through the slices of a volume, as if they were the frames of a video; both ways."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from anatrust.errors import InputError

__all__ = ["Sam2SliceTracker"]

Bools = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Sam2SliceTracker:
    """A ``Sam2VideoModel`` of transformers with masks on key slices; use `Sam2SliceTracker.load`.

    The memory holds the model's own number of slices (7), each region its own; weights are frozen.

    Parameters
    ----------
    parts
        Preparation of images and the model.
    identity
        Exactly which weights.
    """

    parts: Any = field(repr=False)
    identity: str

    @classmethod
    def load(cls, source: str | Path, revision: str | None = None) -> Sam2SliceTracker:
        """From a folder or the local Hugging Face cache (safetensors); nothing is downloaded.

        Raises
        ------
        InputError, FormatError
            As in :func:`anatrust.models.encoders.weights.find_weights`.
        """
        from anatrust.models.encoders.weights import find_weights
        from anatrust.models.sam2_memory import Sam2Parts
        from anatrust.models.segmenters.digest import folder_digest

        folder = find_weights(source, ("sam2_video",), revision).folder
        return cls(Sam2Parts.load(source, revision), f"sam2-video(sha256={folder_digest(folder, '*.safetensors')})")

    def track(
        self, slices: Floats, anchors: Mapping[int, Mapping[int, Bools]]
    ) -> tuple[dict[int, Floats], dict[int, Floats]]:
        """Chances of each region in every slice.

        Parameters
        ----------
        slices
            Grey values from 0 to 1, ``(slices, rows, columns)``.
        anchors
            Masks ``(rows, columns)`` by label, by slice.

        Returns
        -------
        chances, present
            By label: ``(slices, rows, columns)``, and how sure the model is that the region is in the slice at
            all, ``(slices,)``; both from 0 to 1. Cost: two passes over the slices, a memory attention for each region.

        Raises
        ------
        InputError
            If there is no mask to begin with.
        """
        import torch
        from torch.nn.functional import interpolate
        from transformers.models.sam2_video.modeling_sam2_video import Sam2VideoInferenceSession

        labels = sorted({label for masks in anchors.values() for label, mask in masks.items() if mask.any()})
        if not labels:
            raise InputError("SAM 2 follows what is drawn on at least one slice: there is no mask")
        count, shape = len(slices), slices.shape[1:]
        side = self.parts.size
        with torch.inference_mode():
            frames = self.parts.prepare(torch.from_numpy(np.ascontiguousarray(slices)))
            totals = {label: torch.zeros((count, *shape)) for label in labels}
            scores = {label: np.zeros(count, np.float32) for label in labels}
            for backwards in (False, True):
                session = Sam2VideoInferenceSession(
                    video=frames, video_height=shape[0], video_width=shape[1], dtype=torch.float32
                )
                given: set[int] = set()
                for place in sorted(anchors):
                    new = []
                    for label in labels:
                        mask = anchors[place].get(label)
                        if mask is None or not mask.any():
                            continue
                        full = torch.from_numpy(mask.astype(np.float32))[None, None]
                        full = (interpolate(full, (side, side), mode="bilinear", antialias=True) >= 0.5).float()
                        session.add_mask_inputs(session.obj_id_to_idx(label), place, full)
                        new.append(label)
                    given.update(new)
                session.obj_with_new_inputs = sorted(given)
                # Every region sees its key slices before it is followed to others.
                for place in sorted(anchors):
                    session.obj_with_new_inputs = [
                        label for label in labels if place in session.mask_inputs_per_obj[session.obj_id_to_idx(label)]
                    ]
                    self.parts.model(inference_session=session, frame_idx=place)
                order = range(count - 1, -1, -1) if backwards else range(count)
                for place in order:
                    found = self.parts.model(inference_session=session, frame_idx=place, reverse=backwards)
                    wide = interpolate(found.pred_masks.float(), shape, mode="bilinear", align_corners=False)
                    sure = found.object_score_logits.float().sigmoid().flatten()
                    for row, label in enumerate(found.object_ids):
                        totals[label][place] += wide[row, 0].sigmoid() / 2
                        scores[label][place] += float(sure[row]) / 2
        return {label: total.numpy().astype(np.float32) for label, total in totals.items()}, scores
