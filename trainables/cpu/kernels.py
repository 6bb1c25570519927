"""Loops over activations on a CPU, compiled by Numba: one pass where torch's operations take five.

They run on one thread: a trial's share of a machine that trains many is one CPU. They are compiled
when they are first called, in seconds, and kept on disk for the next process.
"""

from __future__ import annotations

from typing import Any, TypeVar, cast

import numpy as np
from numba import njit
from numpy.typing import NDArray

__all__ = ["LEVELS", "drop", "normalize", "normalize_gradient", "rectify", "sum_taps"]

LEVELS = 2**16
"""An element is dropped if its 16 random bits are below a number."""

Floats = NDArray[np.float32] | NDArray[np.float64]
_Function = TypeVar("_Function")

_BLOCK = 16  # images whose sum is kept in the activations' own precision
_GOLDEN, _FIRST, _SECOND = 0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB


def _compiled(function: _Function) -> _Function:
    # sums may be reordered and products fused; what is not finite stays what it is
    fast = njit(
        nogil=True, cache=True, error_model="numpy", fastmath={"contract", "reassoc", "nsz"}
    )
    return cast(_Function, fast(function))


@_compiled
def _draw(words: NDArray[np.uint64], seed: np.uint64, start: int) -> None:
    """Words ``start``, ``start`` + 1, … of the sequence SplitMix64 (Steele et al., 2014) from
    ``seed``."""
    for index in range(words.size):
        word = seed + np.uint64(start + index + 1) * np.uint64(_GOLDEN)
        word = (word ^ (word >> np.uint64(30))) * np.uint64(_FIRST)
        word = (word ^ (word >> np.uint64(27))) * np.uint64(_SECOND)
        words[index] = word ^ (word >> np.uint64(31))


@_compiled
def drop(rows: Floats, seed: np.uint64, dropped: int, factor: float) -> None:
    """Multiplies each element of (B, N) by zero, with a probability of ``dropped`` / `LEVELS`, or
    by ``factor``."""
    width = rows.shape[1]
    words = np.empty((width + 3) // 4, np.uint64)
    lanes = words.view(np.uint16)
    scale, zero = rows.dtype.type(factor), rows.dtype.type(0)
    for row in range(rows.shape[0]):
        _draw(words, seed, row * words.size)
        for index in range(width):
            rows[row, index] *= scale if lanes[index] >= dropped else zero


@_compiled
def rectify(rows: Floats, seed: np.uint64, dropped: int, factor: float, result: Floats) -> None:
    """(B, N) → ``result``: ReLU, then `drop`. ``result`` may be ``rows``."""
    for row in range(rows.shape[0]):
        for index in range(rows.shape[1]):
            value = rows[row, index]
            result[row, index] = rows.dtype.type(0) if value <= 0 else value
    if dropped:
        drop(result, seed, dropped, factor)


@_compiled
def _by_channel(columns: NDArray[np.float64], channels: int) -> Any:
    """Sums over pixels: (P·C,) → (C,)."""
    sums = np.zeros(channels)
    for start in range(0, columns.size, channels):
        for channel in range(channels):
            sums[channel] += columns[start + channel]
    return sums


@_compiled
def _beside_pixels(values: Any, like: Any) -> Any:
    """(C,) → (P·C,), a channel's value beside each of its pixels, so that all can go in long
    rows."""
    beside = np.empty(like.shape[1], like.dtype)
    for start in range(0, beside.size, values.size):
        for channel in range(values.size):
            beside[start + channel] = values[channel]
    return beside


@_compiled
def normalize(
    rows: Floats,
    weight: Floats,
    bias: Floats,
    eps: float,
    rectified: bool,
    seed: np.uint64,
    dropped: int,
    factor: float,
    result: Floats,
    mean: NDArray[np.float64],
    variance: NDArray[np.float64],
) -> None:
    """Batch normalization of (B, H·W·C) by its own moments, then ReLU if ``rectified``, and
    dropout if ``dropped``.

    Args:
        factor: what the kept elements are multiplied by.
        result, mean, variance: what is computed: (B, H·W·C), and the (biased) moments (C,).
    """
    count, width = rows.shape
    channels = weight.size
    total, block = np.zeros(width), np.empty(width, rows.dtype)
    for start in range(0, count, _BLOCK):
        block[:] = 0
        for row in range(start, min(start + _BLOCK, count)):
            for index in range(width):
                block[index] += rows[row, index]
        for index in range(width):
            total[index] += block[index]
    values = count * (width // channels)
    mean[:] = _by_channel(total, channels) / values
    means = _beside_pixels(mean, rows)
    total[:] = 0
    for start in range(0, count, _BLOCK):
        block[:] = 0
        for row in range(start, min(start + _BLOCK, count)):
            for index in range(width):
                centred = rows[row, index] - means[index]
                block[index] += centred * centred
        for index in range(width):
            total[index] += block[index]
    variance[:] = _by_channel(total, channels) / values
    slopes = _beside_pixels(weight / np.sqrt(variance + eps) * factor, rows)
    constants = _beside_pixels(bias * factor, rows)
    zero = rows.dtype.type(0)
    words = np.empty((width + 3) // 4, np.uint64)
    lanes = words.view(np.uint16)
    for row in range(count):
        if dropped:
            _draw(words, seed, row * words.size)
            for index in range(width):
                value = (rows[row, index] - means[index]) * slopes[index] + constants[index]
                result[row, index] = zero if (value <= zero) | (lanes[index] < dropped) else value
        elif rectified:
            for index in range(width):
                value = (rows[row, index] - means[index]) * slopes[index] + constants[index]
                result[row, index] = zero if value <= zero else value
        else:
            for index in range(width):
                result[row, index] = (rows[row, index] - means[index]) * slopes[index] + constants[
                    index
                ]


@_compiled
def normalize_gradient(
    gradient: Floats,
    rows: Floats,
    weight: Floats,
    eps: float,
    factor: float,
    mean: NDArray[np.float64],
    variance: NDArray[np.float64],
    rectified: bool,
    result: Floats,
    by_rows: Floats,
    by_weight: Floats,
    by_bias: Floats,
) -> None:
    """The gradients of `normalize` from that by its ``result``, (B, H·W·C), which says where it
    was set to zero."""
    count, width = rows.shape
    channels = weight.size
    means = _beside_pixels(mean, rows)
    totals, products = np.zeros(width), np.zeros(width)
    block, block_products = np.empty(width, rows.dtype), np.empty(width, rows.dtype)
    zero = rows.dtype.type(0)
    for start in range(0, count, _BLOCK):
        block[:] = 0
        block_products[:] = 0
        for row in range(start, min(start + _BLOCK, count)):
            for index in range(width):
                slope = zero if rectified & (result[row, index] <= zero) else gradient[row, index]
                block[index] += slope
                block_products[index] += slope * (rows[row, index] - means[index])
        for index in range(width):
            totals[index] += block[index]
            products[index] += block_products[index]
    sums = _by_channel(totals, channels) * factor
    inverse = 1.0 / np.sqrt(variance + eps)
    along = _by_channel(products, channels) * factor * inverse
    by_bias[:] = sums
    by_weight[:] = along
    values = count * (width // channels)
    constants = _beside_pixels(-weight * inverse * sums / values, rows)
    slopes = _beside_pixels(-weight * inverse * inverse * along / values, rows)
    factors = _beside_pixels(weight * inverse * factor, rows)
    for row in range(count):
        for index in range(width):
            slope = zero if rectified & (result[row, index] <= zero) else gradient[row, index]
            moved = (rows[row, index] - means[index]) * slopes[index] + constants[index]
            by_rows[row, index] = slope * factors[index] + moved


@_compiled
def sum_taps(
    taps: Floats,
    stride: int,
    counts: NDArray[np.int64],
    places: NDArray[np.uint64],
    bias: Floats,
    result: Floats,
) -> None:
    """What falls on each pixel of the result of a transposed convolution, added up.

    Args:
        taps: flat; what an input image adds to its surroundings begins ``stride`` further than the
            one before it.
        counts: (pixels,) how many taps fall on a pixel of the result: 0, 1, 2 or 4.
        places: (pixels, 4) where each of them begins, from the image's beginning.
        bias: (C,).
        result: (B, pixels·C).
    """
    channels, pixels = (
        np.uint64(bias.size),
        np.uint64(counts.size),
    )  # unsigned: no index counts from the end
    for image in range(result.shape[0]):
        here, there = taps[image * stride :], result[image]
        if bias.size == 1:
            for pixel in range(pixels):
                value, count = bias[0], counts[pixel]
                if count > 0:
                    value += here[places[pixel, 0]]
                if count > 1:
                    value += here[places[pixel, 1]]
                if count > 2:
                    value += here[places[pixel, 2]] + here[places[pixel, 3]]
                there[pixel] = value
            continue
        to = np.uint64(0)
        for pixel in range(pixels):
            count = counts[pixel]
            a, b, c, d = places[pixel, 0], places[pixel, 1], places[pixel, 2], places[pixel, 3]
            if count == 1:
                for channel in range(channels):
                    there[to + channel] = bias[channel] + here[a + channel]
            elif count == 2:
                for channel in range(channels):
                    there[to + channel] = bias[channel] + (here[a + channel] + here[b + channel])
            elif count == 4:
                for channel in range(channels):
                    left, right = (
                        here[a + channel] + here[b + channel],
                        here[c + channel] + here[d + channel],
                    )
                    there[to + channel] = bias[channel] + (left + right)
            else:
                for channel in range(channels):
                    there[to + channel] = bias[channel]
            to += channels
