"""Near-duplicates by difference hash (dHash): 64 bits, one per brighter right-hand neighbour.

After N. Krawetz, "Kind of like that" (2013): the image is shrunk to 9x8 gray pixels, and each bit
says whether a pixel is brighter than the one to its left. Pairs within a small Hamming distance
are found by multi-index hashing (Norouzi, Punjani, Fleet, CVPR 2012): two hashes that differ in
fewer bits than there are bands agree in at least one band.
"""

import numpy as np
from PIL import Image

BANDS = 4
MAX_DISTANCE = BANDS - 1


def dhash(images_NCHW: np.ndarray) -> np.ndarray:
    """uint64 [N] of uint8 gray or RGB images, the first bit (top left) most significant."""
    small_NHW = np.empty((len(images_NCHW), 8, 9), np.uint8)
    for small, image in zip(small_NHW, images_NCHW, strict=True):
        picture = Image.fromarray(image[0] if len(image) == 1 else image.transpose(1, 2, 0))
        small[:] = picture.convert("L").resize((9, 8), Image.Resampling.LANCZOS)
    bits = small_NHW[:, :, 1:] > small_NHW[:, :, :-1]
    return np.packbits(bits.reshape(-1, 64), axis=1).view(">u8").reshape(-1).astype(np.uint64)


def near_pairs(hashes_N: np.ndarray, distance: int = MAX_DISTANCE) -> np.ndarray:
    """int64 [P, 2]: all pairs i < j of distinct hashes within ``distance`` bits, sorted.

    ``hashes_N`` are distinct uint64; ``distance`` is at most `MAX_DISTANCE`.
    """
    if not 0 <= distance <= MAX_DISTANCE:
        raise ValueError(f"distance must be from 0 to {MAX_DISTANCE}, but got {distance}")
    found = [np.empty((0, 2), np.int64)]
    for band in range(BANDS):
        keys = (hashes_N >> np.uint64(16 * band)).astype(np.uint16)
        order = np.argsort(keys, kind="stable")
        found.append(_pairs_in_runs(keys[order], hashes_N[order], order, distance))
    pairs = np.sort(np.concatenate(found), axis=1)
    return np.unique(pairs, axis=0)


def _pairs_in_runs(
    keys: np.ndarray, hashes: np.ndarray, order: np.ndarray, distance: int
) -> np.ndarray:
    """Pairs within ``distance`` among rows of equal (sorted) key, compared a lag at a time."""
    found = [np.empty((0, 2), np.int64)]
    first = np.arange(len(keys))
    for lag in range(1, len(keys)):
        first = first[first < len(keys) - lag]
        first = first[keys[first] == keys[first + lag]]
        if not len(first):
            break
        close = first[np.bitwise_count(hashes[first] ^ hashes[first + lag]) <= distance]
        found.append(np.stack([order[close], order[close + lag]], axis=1))
    return np.concatenate(found)


def components(count: int, pairs: np.ndarray) -> np.ndarray:
    """int64 [count]: the smallest member of each node's connected component."""
    parent = list(range(count))

    def root(node: int) -> int:
        while parent[node] != node:
            parent[node] = parent[parent[node]]
            node = parent[node]
        return node

    for a, b in pairs.tolist():
        low, high = sorted((root(a), root(b)))
        parent[high] = low
    return np.array([root(node) for node in range(count)], dtype=np.int64)
