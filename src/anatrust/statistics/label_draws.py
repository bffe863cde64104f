"""Random relabellings of a pool of two samples: single points, or whole spatial blocks."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from anatrust.errors import InputError

__all__ = ["MIN_BLOCKS", "BlockDesign", "block_design", "block_labels", "permuted_labels"]

LabelArray = npt.NDArray[np.uint8]

MIN_BLOCKS = 20
"""Fewest blocks for a block null; below, the null distribution is too coarse to mean anything."""


def permuted_labels(m: int, n: int, n_draws: int, rng: np.random.Generator) -> LabelArray:
    """Labels of a pool whose first m points are the first sample, and permutations of them.

    Parameters
    ----------
    m, n
        Sizes of the samples.
    n_draws
        Number B of permutations.
    rng
        Generator; the draws do not depend on anything else.

    Returns
    -------
    ndarray of uint8
        Shape ``(B + 1, m + n)``, 1 = first sample; row 0 is the observed labelling. About 7 ns
        an entry.

    Examples
    --------
    >>> labels = permuted_labels(2, 3, 4, np.random.default_rng(0))
    >>> labels[0].tolist(), labels.sum(axis=1).tolist()
    ([1, 1, 0, 0, 0], [2, 2, 2, 2, 2])

    Guarantee
    ---------
    Every subset of m points is equally likely in rows 1 to B, independently.
    """
    labels = np.zeros((n_draws + 1, m + n), dtype=np.uint8)
    labels[:, :m] = 1
    # One byte a label keeps a row of 32 000 points in the first cache while it is shuffled.
    rng.permuted(labels[1:], axis=1, out=labels[1:])
    return labels


@dataclass(frozen=True, eq=False)
class BlockDesign:
    """Blocks that each lie wholly in one sample.

    Attributes
    ----------
    index
        Block number of every point of the pool, ``(N,)``, from 0.
    first
        For every block whether it belongs to the first sample, ``(blocks,)`` bool.
    """

    index: npt.NDArray[np.intp]
    first: npt.NDArray[np.bool_]

    @property
    def count(self) -> int:
        """Number of blocks."""
        return len(self.first)

    @property
    def arrangements(self) -> int:
        """Different ways to choose which blocks form the first sample."""
        return math.comb(self.count, int(self.first.sum()))


def block_design(blocks: npt.ArrayLike, m: int) -> BlockDesign:
    """Cut blocks along the border between the samples and number them.

    Parameters
    ----------
    blocks
        Block id of every point of the pool, first sample first, shape ``(N,)``, integers. A block
        that holds points of both samples becomes two.
    m
        Size of the first sample.

    Raises
    ------
    InputError
        If the ids are not one row of integers.

    Examples
    --------
    >>> design = block_design([7, 7, 7, 9, 9], m=2)
    >>> design.index.tolist(), design.first.tolist(), design.arrangements
    ([1, 1, 0, 2, 2], [False, True, False], 3)
    """
    ids = np.asarray(blocks)
    if ids.ndim != 1 or ids.dtype.kind not in "iu":
        raise InputError(f"blocks must be one row of integer ids, not {ids.dtype} of shape {ids.shape}")
    pairs = np.stack([ids.astype(np.int64), (np.arange(len(ids)) < m).astype(np.int64)])
    unique, index = np.unique(pairs, axis=1, return_inverse=True)
    return BlockDesign(index.reshape(-1), unique[1] == 1)


def block_labels(design: BlockDesign, n_draws: int, rng: np.random.Generator) -> LabelArray:
    """Labels in which whole blocks change sample.

    Parameters
    ----------
    design
        From `block_design`.
    n_draws
        Number B of draws.
    rng
        Generator.

    Returns
    -------
    ndarray of uint8
        Shape ``(B + 1, blocks)``, row 0 observed; index its columns with ``design.index`` to get
        the labels of the points. The number of blocks in the first sample stays the same,
        the number of points need not.

    Examples
    --------
    >>> design = block_design([0, 1, 2, 2], m=2)
    >>> block_labels(design, 1, np.random.default_rng(0)).sum(axis=1).tolist()
    [2, 2]

    Guarantee
    ---------
    Exchangeable rows if the blocks are exchangeable: approximate for equal blocks longer than
    the correlation length, invalid where tissue changes from block to block.
    """
    labels = np.tile(design.first.astype(np.uint8), (n_draws + 1, 1))
    rng.permuted(labels[1:], axis=1, out=labels[1:])
    return labels
