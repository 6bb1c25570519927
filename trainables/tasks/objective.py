"""What trials are compared by: a metric, and whether more of it is better. Imports nothing heavy.

Everything that compares trials minimises one number, the loss: the metric itself, or its negative
if it is maximised. Only what people look at has the metric's own name and sign again.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass

__all__ = ["LOSS", "MAXIMIZE", "MINIMIZE", "Objective", "sounds_better_high"]

MINIMIZE, MAXIMIZE = "minimize", "maximize"

_BETTER_HIGH = re.compile(
    r"(?:.*_)?(?:acc|accuracy|auc|auroc|average_precision|bleu|dice|elbo|f1|f1_macro|f1_weighted"
    r"|iou|kappa|log_likelihood|mcc|precision|psnr|r2|recall|score|sensitivity|specificity|ssim)"
    r"(?:_score)?"
)
_BETTER_LOW = re.compile(r".*(?:neg|loss|error|one_minus).*")


@dataclass(frozen=True)
class Objective:
    """What trials are compared by.

    Attributes:
        metric: the term or metric; None: ``mse`` if the task has such a term, else ``loss``.
        maximize: whether more is better.

    >>> Objective("accuracy", maximize=True).loss(0.75), Objective("mse").score(0.5)
    (-0.75, 0.5)
    """

    metric: str | None = None
    maximize: bool = False

    @property
    def direction(self) -> str:
        """``minimize`` or ``maximize``."""
        return MAXIMIZE if self.maximize else MINIMIZE

    @property
    def name(self) -> str:
        """What people call it: the metric, or ``loss`` if it is not known yet."""
        return self.metric or "loss"

    def loss(self, score: float) -> float:
        """What is minimised, from the metric."""
        return -score if self.maximize else score

    def score(self, loss: float) -> float:
        """The metric, from what is minimised."""
        return -loss if self.maximize else loss

    @property
    def best_word(self) -> str:
        """``lowest`` or ``highest``: what the best value is."""
        return "highest" if self.maximize else "lowest"

    @property
    def better_word(self) -> str:
        """``below`` or ``above``: where a better value is."""
        return "above" if self.maximize else "below"

    @property
    def worse_word(self) -> str:
        """``above`` or ``below``: where a worse value is."""
        return "below" if self.maximize else "above"

    @property
    def key(self) -> str:
        """The key of its value in JSON: ``val_loss`` where that is what it is, else its name."""
        return self.name if self.maximize else "val_loss"

    def entry(self, score: object) -> dict[str, object]:
        """A score in JSON: with its metric and direction, and as ``val_loss`` if that is what it
        is."""
        found = {"metric": self.name, "direction": self.direction, "score": score}
        return found if self.maximize else {**found, "val_loss": score}

    def named(self, terms: Collection[str]) -> str:
        """The metric's name, given those of all terms."""
        return self.metric or ("mse" if "mse" in terms else "loss")


LOSS = Objective()
"""A loss without a name, which is minimised."""


def sounds_better_high(metric: str) -> bool:
    """Whether a metric of this name is usually better the higher it is.

    >>> sounds_better_high("val_accuracy"), sounds_better_high("negative_elbo")
    (True, False)
    """
    name = metric.lower()
    return bool(_BETTER_HIGH.fullmatch(name)) and not _BETTER_LOW.fullmatch(name)
