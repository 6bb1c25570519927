"""The results of a study: its parts as recorded in MLflow, and PCA baselines from the data."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from foldrace.analysis.records.comparison import Comparison, read_comparison
from foldrace.analysis.records.evidence import Evidence, load_evidence, refit_run
from foldrace.analysis.records.tables import (
    artifact_text,
    best_trial,
    fold_losses,
    ranking,
    trials_table,
)
from foldrace.analysis.records.vae import VaeRecord, read_vae_record
from foldrace.analysis.statistics.pca import LinearCode, linear_codes
from foldrace.analysis.statistics.verdict import Verdict, judge
from foldrace.analysis.study.plan import PARTS, REPORTS, StudyPart, StudyProgress
from foldrace.errors import InputError
from foldrace.search.preparing.recorded import recorded_spec
from foldrace.search.recording.folder import SweepFolder
from foldrace.search.recording.tracking import connect
from foldrace.trainables.data.datasets import load_dataset

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

    from foldrace.search.spec.sweep_spec import SweepSpec

__all__ = ["PartRecord", "StudyRecord", "read_study"]


@dataclass(frozen=True)
class PartRecord:
    """A part whose sweep has ended.

    Attributes:
        trials: a row a trial, see `foldrace.analysis.records.tables.trials_table`.
        folds: the best trial's loss in each fold.
        test: the refit's test metrics by name, without ``test_``.
        pages: by kind: the reports' paths, relative to the study's folder.
        figures: the folder of the reports' figures.
    """

    part: StudyPart
    spec: SweepSpec
    run: Run
    trials: pd.DataFrame
    folds: tuple[float, ...] = ()
    test: Mapping[str, float] = field(default_factory=dict)
    evidence: Evidence = field(default_factory=dict)
    pages: Mapping[str, str] = field(default_factory=dict)
    figures: Path = Path()

    @cached_property
    def best_trial(self) -> pd.Series[Any] | None:
        """The best completed trial's row."""
        return best_trial(self.trials)

    def param(self, name: str) -> float | None:
        """A parameter of the best trial; None if it is missing or not a number."""
        text = None if self.best_trial is None else self.best_trial.get(f"params.{name}")
        try:
            return float(text) if text is not None else None
        except ValueError:
            return None

    def metric(self, name: str) -> float | None:
        """A final metric of the best trial, its mean over the folds; None if it is missing."""
        value = math.nan if self.best_trial is None else float(self.best_trial.get(name, math.nan))
        return value if math.isfinite(value) else None

    @property
    def failed(self) -> int:
        """The number of failed trials."""
        return int((self.trials["status"] == "failed").sum())

    @property
    def pruned(self) -> int:
        """The number of pruned trials."""
        return int((self.trials["status"] == "pruned").sum())

    @property
    def fold_epochs(self) -> tuple[int, int]:
        """Fold-epochs spent, and those of training every trial to the end."""
        spent = int(self.run.data.tags.get("foldrace.fold_epochs", 0))
        return spent, len(self.trials) * self.spec.folds.splits * self.spec.epochs


@dataclass(frozen=True)
class StudyRecord:
    """A study, however far it has come.

    Attributes:
        samples: the number of training images of the autoencoder's sweep.
        parts: by key: those whose sweep has ended.
        linear: by the number of components: PCA's reconstructions.
        environment: as recorded with the first of the sweeps.
    """

    dataset: str
    samples: int
    test_samples: int
    parts: Mapping[str, PartRecord]
    linear: Mapping[int, LinearCode]
    progress: StudyProgress
    environment: Mapping[str, Any] = field(default_factory=dict)
    comparison: Comparison | None = None
    verdict: Verdict | None = None
    vae: VaeRecord | None = None

    @property
    def autoencoders(self) -> list[tuple[int, PartRecord]]:
        """The refitted autoencoders with the size of their code, the smallest first."""
        found = [
            (part.param("latent_dim"), part)
            for key, part in self.parts.items()
            if key.startswith("ae")
        ]
        return sorted(
            ((int(size), part) for size, part in found if size and "mse" in part.test),
            key=lambda pair: pair[0],
        )

    @property
    def whole(self) -> bool:
        """Whether the data are all of FashionMNIST, so that results compare with the study's."""
        return self.dataset == "fashion-mnist" and self.samples >= 60_000


def read_study(root: Path, data_dir: Path, progress: StudyProgress) -> StudyRecord:
    """Reads the study in a folder, as far as it has come."""
    parts: dict[str, PartRecord] = {}
    environment: Mapping[str, Any] = {}
    comparison, vae = None, None
    for part in PARTS:
        folder = SweepFolder(root.resolve(), part.name)
        if not folder.result.is_file():
            continue
        result = folder.read_result()
        client = connect(folder.read_state().tracking_uri)
        record = parts[part.key] = _read_part(
            client, client.get_run(result["run_id"]), part, folder
        )
        environment = environment or json.loads(
            artifact_text(client, record.run, "environment.json") or "{}"
        )
        if part.key == "optimizers":
            comparison = read_comparison(client, record.run)
        if part.key == "vae":
            vae = read_vae_record(client, record.run)
    spec = (parts["ae"].spec if "ae" in parts else PARTS[0].spec(progress.overrides)).dataset
    data = load_dataset(
        spec.name, limit=spec.limit, seed=spec.seed, size=spec.size, data_dir=data_dir
    )
    images, test_images = data.images, data.test_images
    if images is None or test_images is None:
        raise InputError("dataset", data.name, "the study needs a data set of images")
    sizes = {
        int(size) for part in parts.values() if (size := part.param("latent_dim")) is not None
    }
    return StudyRecord(
        dataset=data.name,
        samples=len(data),
        test_samples=data.test_count,
        parts=parts,
        linear=linear_codes(images, test_images, sorted(sizes)),
        progress=progress,
        environment=environment,
        comparison=comparison,
        verdict=judge(comparison) if comparison else None,
        vae=vae,
    )


def _read_part(client: MlflowClient, run: Run, part: StudyPart, folder: SweepFolder) -> PartRecord:
    trials, refit = trials_table(client, run), refit_run(client, run)
    best = ranking(trials)
    metrics = refit.data.metrics if refit else {}
    pages = sorted(folder.path.glob(f"{REPORTS}/*.html"))
    return PartRecord(
        part=part,
        spec=recorded_spec(folder, folder.read_state()),
        run=run,
        trials=trials,
        folds=tuple(fold_losses(client, run, int(best.iloc[0]["trial"]))) if len(best) else (),
        test={
            name.removeprefix("test_"): value
            for name, value in metrics.items()
            if name.startswith("test_")
        },
        evidence=load_evidence(client, refit),
        pages={page.stem: page.relative_to(folder.root).as_posix() for page in pages},
        figures=folder.path / REPORTS / "figures",
    )
