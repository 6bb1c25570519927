"""The same test images, reconstructed by every arm's tuned model."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from foldrace.analysis.records.comparison import Comparison
from foldrace.analysis.reports.comparison.arms import arm_colours
from foldrace.analysis.reports.image_rows import ImageRow, draw_image_rows
from foldrace.analysis.reports.page import Figure
from foldrace.analysis.reports.style import INK
from foldrace.analysis.text import digits, listed, plural

__all__ = ["reconstructions"]


def reconstructions(comparison: Comparison, name: str = "reconstructions") -> Figure | None:
    """Originals on top, a row an arm below; None if no images were recorded.

    Args:
        name: of the figure, unique on its page.
    """
    kept = comparison.reconstructions
    if kept is None or not len(kept.images):
        return None
    colour = arm_colours(comparison)
    rows: list[ImageRow] = [("original", kept.images, INK)]
    rows += [(arm, images, colour.get(arm, INK)) for arm, images in kept.by_arm.items()]
    errors = {arm: _mse(kept.images, images) for arm, images in kept.by_arm.items()}
    ranked = sorted(errors, key=lambda arm: errors[arm])
    texts = [f"{arm} {digits(errors[arm], 3)}" for arm in ranked]
    return draw_image_rows(
        name,
        "The same test images, reconstructed",
        f"The same {plural(len(kept.images), 'test image')}, reconstructed by the tuned models."
        f" Mean squared error on these images: {listed(texts)}.",
        rows,
        f"Originals, and their reconstructions by {listed(list(kept.by_arm))}",
    )


def _mse(images: NDArray[np.uint8], others: NDArray[np.uint8]) -> float:
    return float(np.mean(((images.astype(float) - others) / 255) ** 2))
