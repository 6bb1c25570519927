"""Learning curves of many configurations, every fold and epoch, and the file that holds them."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from foldrace.errors import InputError, first_line

__all__ = ["Curves", "read_curves"]


@dataclass(frozen=True)
class Curves:
    """Curves of C configurations on K folds over E epochs.

    Attributes:
        loss: (C, K, E) the objective after each epoch, lower is better; not finite from the epoch
            at which a fold diverged.
        seconds: (C, K, E) the duration of each epoch.
        configurations: the parameters of each; empty if they are not known.

    >>> loss = np.array([[[0.5, 0.2]], [[0.4, 0.3]]])
    >>> curves = Curves(loss, np.ones(loss.shape))
    >>> print(curves)
    2 configurations × 1 folds × 2 epochs
    >>> curves.ranking.tolist()
    [0, 1]
    """

    loss: NDArray[np.float64]
    seconds: NDArray[np.float64]
    configurations: Sequence[Mapping[str, Any]] = field(default_factory=tuple)

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, K, E)."""
        count, folds, epochs = self.loss.shape
        return count, folds, epochs

    @cached_property
    def final(self) -> NDArray[np.float64]:
        """(C,) the mean over all folds after the last epoch; inf where a fold diverged."""
        last = np.where(np.isfinite(self.loss).all(axis=2), self.loss[:, :, -1], np.inf)
        return np.asarray(last.mean(axis=1), dtype=np.float64)

    @cached_property
    def ranking(self) -> NDArray[np.int64]:
        """(C,) the configurations by their final loss, the best first."""
        return np.argsort(self.final, kind="stable")

    def __str__(self) -> str:
        count, folds, epochs = self.shape
        incomplete = int((~np.isfinite(self.final)).sum())
        text = f"{count} configurations × {folds} folds × {epochs} epochs"
        return text + (f", {incomplete} of them incomplete" if incomplete else "")

    def save(self, path: Path) -> None:
        """Writes an .npz that `read_curves` reads; float32 is enough for curves."""
        configurations = np.array(json.dumps([dict(one) for one in self.configurations]))
        with path.open("wb") as file:
            np.savez_compressed(
                file,
                loss=self.loss.astype(np.float32),
                secs=self.seconds.astype(np.float32),
                cfgs=configurations,
            )


def read_curves(path: Path) -> Curves:
    """The curves in an .npz: ``loss`` (C, K, E), optional ``secs`` (C, K, E), ``cfgs`` (JSON).

    Raises:
        InputError: the file cannot be read, an array has the wrong shape, or no configuration is
            finite to the last epoch.
    """
    arrays = _arrays(path)
    if "loss" not in arrays:
        rule, remedy = "has no array `loss`", "`foldrace curves SWEEP -o FILE` writes one"
        raise InputError("CURVES", str(path), rule, remedy)
    loss = arrays["loss"]
    if loss.ndim != 3 or not all(loss.shape) or loss.dtype.kind not in "fiu":
        value, rule = "×".join(map(str, loss.shape)), "of shape (configurations, folds, epochs)"
        raise InputError("CURVES", f"loss: {value}", f"must be numbers {rule}")
    if len(loss) < 2:
        value = f"loss: {len(loss)} configuration"
        raise InputError("CURVES", value, "must have at least two configurations")
    seconds = arrays.get("secs", np.ones(loss.shape))
    if seconds.shape != loss.shape or seconds.dtype.kind not in "fiu":
        rule = f"must be numbers of the shape of loss, {loss.shape}"
        raise InputError("CURVES", f"secs: {seconds.shape}", rule)
    seconds = seconds.astype(np.float64)
    if (seconds < 0).any():
        raise InputError("CURVES", f"secs: {seconds.min():g}", "must not be negative")
    seconds = np.where(np.isfinite(seconds), seconds, 0.0)
    curves = Curves(loss.astype(np.float64), seconds, _configurations(arrays.get("cfgs"), path))
    if not np.isfinite(curves.final).any():
        rule = "has no configuration with finite losses on all folds to the last epoch"
        raise InputError("CURVES", str(path), rule)
    return curves


def _arrays(path: Path) -> dict[str, NDArray[Any]]:
    try:
        if not zipfile.is_zipfile(path):
            path.open("rb").close()  # raises if the file cannot be opened at all
            raise zipfile.BadZipFile("it is of another kind, or truncated")
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in ("loss", "secs") if name in file.files}
            # pickled configurations are skipped: they are not needed, and loading runs code
            with suppress(ValueError, KeyError):
                arrays["cfgs"] = file["cfgs"]
            return arrays
    except (OSError, ValueError, zipfile.BadZipFile, EOFError) as error:
        rule = f"is not a readable .npz of curves: {first_line(error)}"
        raise InputError("CURVES", str(path), rule) from error


def _configurations(given: NDArray[Any] | None, path: Path) -> Sequence[Mapping[str, Any]]:
    """The configurations in ``cfgs``: one JSON text, or one for each; empty if it is no text."""
    if given is None or given.dtype.kind not in "SU":
        return ()
    try:
        if given.ndim:
            found = [json.loads(text) for text in given.tolist()]
        else:
            text = given.item()
            found = json.loads(text.decode() if isinstance(text, bytes) else text)
    except (ValueError, TypeError, AttributeError) as error:
        raise InputError("CURVES", f"cfgs in {path}", f"is not JSON: {error}") from error
    return tuple(found) if isinstance(found, list) else ()
