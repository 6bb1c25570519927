"""Recorded learning curves: every epoch of every fold of many configurations, for the simulator to
replay."""

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

from foldrace.errors import InputError

__all__ = ["Curves", "read_curves"]


@dataclass(frozen=True)
class Curves:
    """Curves of C configurations on K folds over E epochs.

    Attributes:
        loss: (C, K, E) the objective after each epoch, lower is better; not finite from where a
            fold has diverged.
        seconds: (C, K, E) what each epoch took.
        configurations: the parameters of each; empty if they are not known.
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
        """(C,) the mean over the folds after the last epoch, as full cross-validation has it; inf
        if one diverged."""
        last = np.where(np.isfinite(self.loss).all(axis=2), self.loss[:, :, -1], np.inf)
        return np.asarray(last.mean(axis=1), dtype=np.float64)

    @cached_property
    def ranking(self) -> NDArray[np.int64]:
        """(C,) the configurations by full cross-validation, the best first."""
        return np.argsort(self.final, kind="stable")

    def __str__(self) -> str:
        count, folds, epochs = self.shape
        failed = int((~np.isfinite(self.final)).sum())
        text = f"{count} configurations × {folds} folds × {epochs} epochs"
        return text + (f", {failed} of them not to the end" if failed else "")

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
    """The curves in an .npz: ``loss`` (C, K, E), optional ``secs`` of the same shape, and
    ``cfgs``, a JSON list.

    Raises:
        InputError: the file cannot be read, or an array has another shape or nothing finite in it.
    """
    try:
        if not zipfile.is_zipfile(path):
            path.open("rb").close()
            raise zipfile.BadZipFile("it is another kind of file, or not all of one")
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in ("loss", "secs") if name in file.files}
            if "cfgs" in file.files:
                with suppress(ValueError):  # a pickle: nothing here needs it, and it is not opened
                    arrays["cfgs"] = file["cfgs"]
    except (OSError, ValueError, zipfile.BadZipFile, EOFError) as error:
        raise InputError(
            "CURVES", str(path), f"is no .npz of curves that can be read: {error}"
        ) from error
    if "loss" not in arrays:
        raise InputError(
            "CURVES",
            str(path),
            "holds no array `loss`",
            "`foldrace curves SWEEP -o FILE` writes one",
        )
    loss = arrays["loss"]
    if loss.ndim != 3 or not all(loss.shape) or loss.dtype.kind not in "fiu":
        shape = "×".join(map(str, loss.shape))
        raise InputError(
            "CURVES", f"loss: {shape}", "must be numbers of shape (configurations, folds, epochs)"
        )
    if len(loss) < 2:
        raise InputError(
            "CURVES", f"loss: {len(loss)} configuration", "needs two configurations or more"
        )
    seconds = arrays.get("secs", np.ones(loss.shape))
    if seconds.shape != loss.shape or seconds.dtype.kind not in "fiu":
        raise InputError(
            "CURVES",
            f"secs: {seconds.shape}",
            f"must be numbers of the shape of loss, {loss.shape}",
        )
    seconds = seconds.astype(np.float64)
    if (seconds < 0).any():
        raise InputError("CURVES", f"secs: {seconds.min():g}", "must not be negative")
    curves = Curves(
        loss.astype(np.float64),
        np.where(np.isfinite(seconds), seconds, 0.0),
        _configurations(arrays, path),
    )
    if not np.isfinite(curves.final).any():
        raise InputError(
            "CURVES",
            str(path),
            "no configuration has finite losses on all folds to the last epoch",
        )
    return curves


def _configurations(arrays: Mapping[str, NDArray[Any]], path: Path) -> Sequence[Mapping[str, Any]]:
    """What ``cfgs`` says, if it is one JSON text, or one for each configuration; nothing if it is
    no text."""
    if "cfgs" not in arrays:
        return ()
    given = arrays["cfgs"]
    if given.dtype.kind not in "SU":
        return ()
    try:
        if given.ndim == 0:
            text = given.item()
            found = json.loads(text.decode() if isinstance(text, bytes) else text)
        else:
            found = [json.loads(text) for text in given.tolist()]
    except (ValueError, TypeError, AttributeError) as error:
        raise InputError("CURVES", f"cfgs in {path}", f"is no JSON: {error}") from error
    return tuple(found) if isinstance(found, list) else ()
