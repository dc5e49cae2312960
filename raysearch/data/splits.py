"""Cut missing splits out of the training rows: stratified, seeded, twins kept together."""

import numpy as np

SHARE = 0.1


def cut(
    labels_N: np.ndarray, digests_N16: np.ndarray, share: float, rng: np.random.Generator
) -> np.ndarray:
    """Boolean [N]: the rows to move away, ``share`` of each class (rounded, at least one).

    Rows with equal digests (exact twins) move together, so that no image of the cut split was
    seen in training; a class of one distinct image stays whole. Twins with different labels are
    counted with the class of the first.
    """
    _, first, group_N = np.unique(
        digests_N16.view("V16").reshape(-1), return_index=True, return_inverse=True
    )
    sizes_G = np.bincount(group_N, minlength=len(first))
    labels_G = labels_N[first]
    moved_G = np.zeros(len(first), dtype=bool)
    for label in np.unique(labels_G):
        groups = rng.permutation(np.flatnonzero(labels_G == label))
        target = max(1, round(share * sizes_G[groups].sum()))
        before = np.cumsum(sizes_G[groups]) - sizes_G[groups]
        chosen = groups[before < target]
        moved_G[chosen if len(chosen) < len(groups) else groups[:-1]] = True
    return moved_G[group_N]
