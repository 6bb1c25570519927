"""Loops over activations on a CPU, compiled by Numba: one pass where torch makes five.

They use one thread, since a trial's share of a node that trains many trials is one CPU. They are
compiled at their first call, which takes seconds, and cached on disk for the next process.

Shapes: B images of P pixels and C channels, with the channels last, are rows (B, P·C).
"""

from __future__ import annotations

from typing import Any, NamedTuple, TypeVar, cast

import numpy as np
from numba import config, njit
from numpy.typing import NDArray

from foldrace.private import private_folder

__all__ = [
    "LEVELS",
    "Gradients",
    "Mask",
    "Moments",
    "drop",
    "normalize",
    "normalize_gradient",
    "rectify",
    "sum_taps",
]

LEVELS = 2**16
"""The number of dropout rates: an element's 16 random bits are compared with a number."""

Floats = NDArray[np.float32] | NDArray[np.float64]
_Function = TypeVar("_Function")

_BLOCK = 16  # images
# The constants of SplitMix64.
_GOLDEN, _FIRST, _SECOND = 0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB


class Mask(NamedTuple):
    """A dropout mask, described by the seed of its random numbers.

    Attributes:
        seed: of its random numbers.
        dropped: an element is dropped with probability ``dropped`` / `LEVELS`.
        factor: what the other elements are multiplied by.
    """

    seed: np.uint64
    dropped: int
    factor: float


class Moments(NamedTuple):
    """Each channel's mean and biased variance, both (C,)."""

    mean: NDArray[np.float64]
    variance: NDArray[np.float64]


class Gradients(NamedTuple):
    """Where `normalize_gradient` writes: (B, P·C), (C,) and (C,)."""

    rows: Floats
    weight: Floats
    bias: Floats


def _compiled(function: _Function) -> _Function:
    # Sums may be reordered and products fused; NaN and infinity keep their meaning.
    compiled = njit(nogil=True, error_model="numpy", fastmath={"contract", "reassoc", "nsz"})
    fast = compiled(cast(Any, function))
    try:
        fast.enable_caching()
    except RuntimeError:  # neither this folder nor the user's own cache can be written to
        config.CACHE_DIR = str(private_folder("numba"))  # type: ignore[attr-defined]
        fast.enable_caching()
    return cast(_Function, fast)


@_compiled
def _random_words(words: NDArray[np.uint64], seed: np.uint64, start: int) -> None:
    """Words ``start``, ``start`` + 1, … of SplitMix64 with this seed (Steele et al., 2014)."""
    for index in range(words.size):
        word = seed + np.uint64(start + index + 1) * np.uint64(_GOLDEN)
        word = (word ^ (word >> np.uint64(30))) * np.uint64(_FIRST)
        word = (word ^ (word >> np.uint64(27))) * np.uint64(_SECOND)
        words[index] = word ^ (word >> np.uint64(31))


@_compiled
def drop(rows: Floats, mask: Mask) -> None:
    """Multiply (B, N) by a dropout mask, in place."""
    width = rows.shape[1]
    words = np.empty((width + 3) // 4, np.uint64)
    lanes = words.view(np.uint16)
    scale, zero = rows.dtype.type(mask.factor), rows.dtype.type(0)
    for row in range(rows.shape[0]):
        _random_words(words, mask.seed, row * words.size)
        for index in range(width):
            rows[row, index] *= scale if lanes[index] >= mask.dropped else zero


@_compiled
def rectify(rows: Floats, mask: Mask, result: Floats) -> None:
    """ReLU, then dropout: (B, N) → ``result``, which may be ``rows``."""
    for row in range(rows.shape[0]):
        for index in range(rows.shape[1]):
            value = rows[row, index]
            result[row, index] = rows.dtype.type(0) if value <= 0 else value
    if mask.dropped:
        drop(result, mask)


@_compiled
def _sum_pixels(columns: NDArray[np.float64], channels: int) -> Any:
    """The sum over pixels: (P·C,) → (C,)."""
    sums = np.zeros(channels)
    for start in range(0, columns.size, channels):
        for channel in range(channels):
            sums[channel] += columns[start + channel]
    return sums


@_compiled
def _repeat_per_pixel(values: Any, like: Any) -> Any:
    """Repeat a channel's value for each pixel: (C,) → (P·C,), so that loops run over long rows."""
    repeated = np.empty(like.shape[1], like.dtype)
    for start in range(0, repeated.size, values.size):
        for channel in range(values.size):
            repeated[start + channel] = values[channel]
    return repeated


@_compiled
def _batch_moments(rows: Floats, moments: Moments) -> Any:
    """Write the moments of (B, P·C), and return the mean of each element's channel, (P·C,).

    Blocks of images are summed in the activations' own precision, the blocks in double.
    """
    count, width = rows.shape
    channels = moments.mean.size
    total, block = np.zeros(width), np.empty(width, rows.dtype)
    for start in range(0, count, _BLOCK):
        block[:] = 0
        for row in range(start, min(start + _BLOCK, count)):
            for index in range(width):
                block[index] += rows[row, index]
        for index in range(width):
            total[index] += block[index]
    values = count * (width // channels)
    moments.mean[:] = _sum_pixels(total, channels) / values
    means = _repeat_per_pixel(moments.mean, rows)
    total[:] = 0
    for start in range(0, count, _BLOCK):
        block[:] = 0
        for row in range(start, min(start + _BLOCK, count)):
            for index in range(width):
                centred = rows[row, index] - means[index]
                block[index] += centred * centred
        for index in range(width):
            total[index] += block[index]
    moments.variance[:] = _sum_pixels(total, channels) / values
    return means


@_compiled
def normalize(
    rows: Floats,
    weight: Floats,
    bias: Floats,
    eps: float,
    rectified: bool,
    mask: Mask,
    result: Floats,
    moments: Moments,
) -> None:
    """Batch normalization by the batch's own moments, then optionally ReLU and dropout.

    Args:
        rows: (B, P·C).
        weight, bias: (C,), applied after normalization.
        rectified: apply ReLU.
        mask: apply dropout; only with ``rectified``.
        result: (B, P·C), written.
        moments: written.
    """
    count, width = rows.shape
    means = _batch_moments(rows, moments)
    slopes = _repeat_per_pixel(weight / np.sqrt(moments.variance + eps) * mask.factor, rows)
    constants = _repeat_per_pixel(bias * mask.factor, rows)
    zero = rows.dtype.type(0)
    words = np.empty((width + 3) // 4, np.uint64)
    lanes = words.view(np.uint16)
    for row in range(count):
        if mask.dropped:
            _random_words(words, mask.seed, row * words.size)
            for index in range(width):
                value = (rows[row, index] - means[index]) * slopes[index] + constants[index]
                result[row, index] = (
                    zero if (value <= zero) | (lanes[index] < mask.dropped) else value
                )
        elif rectified:
            for index in range(width):
                value = (rows[row, index] - means[index]) * slopes[index] + constants[index]
                result[row, index] = zero if value <= zero else value
        else:
            for index in range(width):
                value = (rows[row, index] - means[index]) * slopes[index] + constants[index]
                result[row, index] = value


@_compiled
def normalize_gradient(
    gradient: Floats,
    rows: Floats,
    weight: Floats,
    eps: float,
    factor: float,
    moments: Moments,
    rectified: bool,
    result: Floats,
    gradients: Gradients,
) -> None:
    """The gradients of `normalize` with respect to its rows, weight and bias.

    Args:
        gradient: (B, P·C), with respect to the result.
        rows, weight, eps, rectified: as in `normalize`.
        factor: the mask's.
        moments, result: what `normalize` has written; the result's zeros show where ReLU and
            dropout set it to zero.
        gradients: written.
    """
    count, width = rows.shape
    channels = weight.size
    means = _repeat_per_pixel(moments.mean, rows)
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
    sums = _sum_pixels(totals, channels) * factor
    inverse = 1.0 / np.sqrt(moments.variance + eps)
    along = _sum_pixels(products, channels) * factor * inverse
    gradients.bias[:] = sums
    gradients.weight[:] = along
    values = count * (width // channels)
    constants = _repeat_per_pixel(-weight * inverse * sums / values, rows)
    slopes = _repeat_per_pixel(-weight * inverse * inverse * along / values, rows)
    factors = _repeat_per_pixel(weight * inverse * factor, rows)
    for row in range(count):
        for index in range(width):
            slope = zero if rectified & (result[row, index] <= zero) else gradient[row, index]
            moved = (rows[row, index] - means[index]) * slopes[index] + constants[index]
            gradients.rows[row, index] = slope * factors[index] + moved


@_compiled
def sum_taps(
    taps: Floats,
    stride: int,
    counts: NDArray[np.int64],
    offsets: NDArray[np.uint64],
    bias: Floats,
    result: Floats,
) -> None:
    """Add up the taps that fall on each pixel of a transposed convolution's result.

    Args:
        taps: flat: the products of pixels and kernel elements, ``stride`` of them per image.
        counts: (P,), how many taps fall on a pixel of the result: 0, 1, 2 or 4.
        offsets: (P, 4), where each of these taps begins, from the image's first tap.
        bias: (C,), added.
        result: (B, P·C), written.
    """
    # Unsigned: Numba then adds no code for negative indices, which count from the end.
    channels, pixels = np.uint64(bias.size), np.uint64(counts.size)
    for image in range(result.shape[0]):
        source, target = taps[image * stride :], result[image]
        if bias.size == 1:
            for pixel in range(pixels):
                value, count = bias[0], counts[pixel]
                if count > 0:
                    value += source[offsets[pixel, 0]]
                if count > 1:
                    value += source[offsets[pixel, 1]]
                if count > 2:
                    value += source[offsets[pixel, 2]] + source[offsets[pixel, 3]]
                target[pixel] = value
            continue
        to = np.uint64(0)
        for pixel in range(pixels):
            count = counts[pixel]
            a, b, c, d = offsets[pixel, 0], offsets[pixel, 1], offsets[pixel, 2], offsets[pixel, 3]
            if count == 1:
                for channel in range(channels):
                    target[to + channel] = bias[channel] + source[a + channel]
            elif count == 2:
                for channel in range(channels):
                    target[to + channel] = bias[channel] + (
                        source[a + channel] + source[b + channel]
                    )
            elif count == 4:
                for channel in range(channels):
                    left = source[a + channel] + source[b + channel]
                    right = source[c + channel] + source[d + channel]
                    target[to + channel] = bias[channel] + (left + right)
            else:
                for channel in range(channels):
                    target[to + channel] = bias[channel]
            to += channels
