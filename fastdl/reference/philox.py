"""Philox4x32-10, the counter-based generator of Salmon et al., "Parallel Random Numbers: As Easy as
1, 2, 3" (SC11): ten rounds that mix a 128-bit counter with a 64-bit key.

A round maps counter (c0, c1, c2, c3) under key (k0, k1), with hi and lo the halves of a product, to
(hi(M1 * c2) ^ c1 ^ k0,  lo(M1 * c2),  hi(M0 * c0) ^ c3 ^ k1,  lo(M0 * c0)),
and adds (W0, W1) to the key. rng_state = (seed, offset), both of 64 bits: element i of an array
takes word i % 4 of the block with counter offset + i // 4 and key seed, low words first.
"""

import numpy as np
from numpy.typing import ArrayLike, NDArray

_M0, _M1 = 0xD2511F53, 0xCD9E8D57
_W0, _W1 = 0x9E3779B9, 0xBB67AE85
_LOW = 0xFFFFFFFF
_ROUNDS = 10


def philox4x32(counter: ArrayLike, key: tuple[int, int]) -> NDArray[np.uint32]:
    """The 4 random words of each counter (..., 4)."""
    # 32-bit words in uint64, so that their products are whole
    c0, c1, c2, c3 = np.moveaxis(np.asarray(counter, np.uint64), -1, 0)
    k0, k1 = key
    for _ in range(_ROUNDS):
        p0, p1 = _M0 * c0, _M1 * c2
        c0, c1, c2, c3 = (p1 >> 32) ^ c1 ^ k0, p1 & _LOW, (p0 >> 32) ^ c3 ^ k1, p0 & _LOW
        k0, k1 = (k0 + _W0) & _LOW, (k1 + _W1) & _LOW
    return np.stack([c0, c1, c2, c3], axis=-1).astype(np.uint32)


def random_words(size: int, rng_state: tuple[int, int]) -> NDArray[np.uint32]:
    """The random words of elements 0 .. size - 1."""
    seed, offset = rng_state
    block = np.arange((size + 3) // 4, dtype=np.uint64) + np.uint64(offset)  # wraps at 2**64
    zero = np.zeros_like(block)
    words = philox4x32(
        np.stack([block & _LOW, block >> 32, zero, zero], axis=-1), (seed & _LOW, seed >> 32)
    )
    return words.reshape(-1)[:size]
