"""The main job: runs a prepared sweep on Ray Tune, and records it."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, ExitStack
from dataclasses import replace
from pathlib import Path

from foldrace.command_hints import dir_option, program
from foldrace.errors import first_line
from foldrace.files import fsync_tree, write_text_atomically
from foldrace.search.preparing.prepared import Prepared
from foldrace.search.preparing.recorded import RecordedSweep
from foldrace.search.preparing.resources import check_resources, machines, requested
from foldrace.search.preparing.warm_start import with_warm_start
from foldrace.search.preparing.work import make_work
from foldrace.search.recording.folder import SweepFolder, SweepState, check_root
from foldrace.search.recording.mlflow_internals import check_mlflow
from foldrace.search.recording.schema import Outcome
from foldrace.search.recording.sweep_outbox import recording
from foldrace.search.recording.tracking import check_tracking, connect, tracking_uri
from foldrace.search.recording.writer import MlflowWriter
from foldrace.search.sweeps.begin import FoundSweep, NewSweep, begin_record, without_effect
from foldrace.search.sweeps.comparison_result import RECONSTRUCTED, log_reconstructions
from foldrace.search.sweeps.models import log_fold_models
from foldrace.search.sweeps.result import SweepResult, closing_tags, make_result, note
from foldrace.search.tune.callback import RunningSweep
from foldrace.search.tune.experiments import Experiment, comparison_experiment, sweep_experiment
from foldrace.search.tune.interrupts import Interrupt, graceful_interrupt
from foldrace.search.tune.log_file import library_log
from foldrace.search.tune.patches import check_ray
from foldrace.search.tune.session import ray_session
from foldrace.search.tune.state import TrialTable
from foldrace.search.tune.tuner import run_experiment
from foldrace.search.tune.view import View

__all__ = ["MakeView", "SweepRun", "resume_sweep", "run_sweep"]

log = logging.getLogger(__name__)

MakeView = Callable[[], AbstractContextManager[View]]


def run_sweep(
    prepared: Prepared, root: Path, *, make_view: MakeView, address: str | None = None
) -> tuple[SweepResult, TrialTable]:
    """Runs a sweep and records it.

    Args:
        root: the folder of all sweeps, in which a folder for this one is created.
        make_view: called when the sweep starts; returns the view that shows its trials.
        address: of a Ray cluster; None starts a local Ray and shuts it down at the end.

    Raises:
        InputError: a trial needs more resources than a node has; nothing has been started then.
        StateError: Ray or the tracking server cannot be reached.
    """
    check_root(root)
    uri = tracking_uri(root, prepared.spec.tracking.uri)
    check_tracking(uri)
    prepared = with_warm_start(prepared, root, uri)
    return _kind(prepared)(prepared, NewSweep(prepared, root, uri), make_view, address).execute()


def resume_sweep(
    prepared: Prepared, recorded: RecordedSweep, *, make_view: MakeView, address: str | None = None
) -> tuple[SweepResult, TrialTable]:
    """Continues an interrupted sweep from its last snapshot.

    Trials that had not ended continue from their last checkpoint, or start again if they have
    none. Their metrics are the same as without the interruption.

    Args:
        prepared: the sweep, as `recorded` prepares it.

    Raises:
        InputError, StateError: as `run_sweep`; StateError also if another process runs the sweep.
    """
    folder, state = recorded.folder, recorded.state
    folder.check_private()
    state.check_tune_format(folder.name)
    check_tracking(state.tracking_uri)
    return _kind(prepared)(prepared, FoundSweep(folder, state), make_view, address).execute()


class SweepRun:
    """One run of a sweep, from starting Ray to the recorded result.

    `execute` calls the steps in this order: `begin`, `run`, `log_models`, `conclude`. A resumed
    run differs in its source only; `ComparisonRun` and `foldrace.search.sweeps.extend.ExtendedRun`
    override steps.

    Args:
        source: provides the sweep's folder and state once Ray has been reached.
        make_view, address: as in `run_sweep`.

    Attributes:
        work: what the trials share.
        folder, state, trials, writer: the sweep's; set by `begin`.
    """

    folder: SweepFolder
    state: SweepState
    trials: TrialTable
    writer: MlflowWriter

    def __init__(
        self,
        prepared: Prepared,
        source: NewSweep | FoundSweep,
        make_view: MakeView,
        address: str | None,
    ) -> None:
        self.prepared, self.spec, self.work = prepared, prepared.spec, make_work(prepared)
        self._source, self._make_view, self._address = source, make_view, address
        self._started = time.monotonic()

    def execute(self) -> tuple[SweepResult, TrialTable]:
        """Runs the sweep to its end, or until it is interrupted.

        Returns:
            The result, and the trials as they are at the end.

        Raises:
            InputError, StateError: as `run_sweep`.
            KeyboardInterrupt: before a trial could begin.
        """
        try:
            return self._execute()
        except KeyboardInterrupt:
            source = self._source
            if folder := getattr(self, "folder", getattr(source, "folder", None)):
                place = dir_option(folder.root, Path("runs").resolve())
                text = "%s: interrupted before its first trial; continue with: %s resume %s%s"
                log.info(text, folder.name, program(), folder.name, place)
            else:
                log.info("Interrupted before the sweep began; nothing was recorded")
            raise

    def _execute(self) -> tuple[SweepResult, TrialTable]:
        check_ray()
        check_mlflow()
        with ExitStack() as stack:
            view = stack.enter_context(self._make_view())
            interrupt = stack.enter_context(graceful_interrupt())
            stack.enter_context(ray_session(self._address, self.spec))
            self.begin()
            stack.enter_context(self._requested())
            stack.enter_context(self.folder.locked())
            self._log_notes()
            stack.enter_context(library_log(self.folder.path))
            begin_record(self.writer, self.prepared, self.folder, self.state)
            events = stack.enter_context(recording(self.folder, self.writer))
            sweep = RunningSweep(self.trials, events, view, self.prepared.task)
            result = self._train(sweep, interrupt)
            if not interrupt.asked and self.is_whole(result):
                fsync_tree(self.folder.winner)  # a sweep with a result has its models on disk
                write_text_atomically(self.folder.result, json.dumps(result.to_json(), indent=2))
        return result, self.trials

    def _train(self, sweep: RunningSweep, interrupt: Interrupt) -> SweepResult:
        """Runs the trials, and closes the record whatever happens."""
        outcome = Outcome.FAILED
        try:
            checkpoints = self.run(sweep, interrupt)
            if not interrupt.asked:
                self.log_models(sweep, checkpoints)
            outcome = Outcome.PRUNED if interrupt.asked else Outcome.COMPLETED
        except KeyboardInterrupt:  # outside of Tune, or the second one
            outcome = Outcome.PRUNED
        finally:
            result = self.conclude(interrupted=interrupt.asked)
            sweep.events.close(outcome, closing_tags(result), note(result))
            self.folder.write_state(replace(self.state, seconds=self.trials.elapsed))
        return result

    # --- steps -----------------------------------------------------------------------------------

    def begin(self) -> None:
        """Checks that the cluster can run a trial, finds or creates the sweep's folder, and
        connects to its record."""
        check_resources(self.spec.resources.cpu, self.spec.resources.gpu, machines())
        self.folder, self.state = self._source.open(on_cluster=self._address is not None)
        self.trials = TrialTable(
            total=self.spec.planned_trials,
            earlier=self.state.seconds,
            started=self._started,
            objectives=self.spec.search.objectives,
            objective=self.prepared.objective,
        )
        self.writer = MlflowWriter(
            connect(self.state.tracking_uri),
            self.state.experiment_id,
            self.folder.name,
            self.state.key,
            self.folder.path,
        )

    def run(self, sweep: RunningSweep, interrupt: Interrupt) -> dict[int, Path]:
        """Runs the trials; returns the folder of each trial's last checkpoint, by its number."""
        experiment = self.experiment()
        return run_experiment(experiment, self.prepared, self.folder, self.work, sweep, interrupt)

    def experiment(self) -> Experiment:
        """What Tune is asked to run."""
        return sweep_experiment(self.prepared, self.folder)

    def log_models(self, sweep: RunningSweep, checkpoints: Mapping[int, Path]) -> None:
        """Writes and logs the best trial's fold models."""
        best = self.trials.best
        if best is not None and best.number in checkpoints:
            checkpoint = checkpoints[best.number]
            log_fold_models(sweep.events, best, checkpoint, self.work, self.folder)

    def conclude(self, *, interrupted: bool) -> SweepResult:
        """The result of the run, from the trials as they are now."""
        return make_result(
            self.folder,
            self.state,
            self.writer,
            self.trials,
            interrupted=interrupted,
            arms=[arm.label for arm in self.prepared.arms],
            objectives=self.spec.search.objectives,
        )

    def is_whole(self, result: SweepResult) -> bool:
        """Whether the result of a run that was not interrupted is written to the folder."""
        return True

    # --- around the steps ------------------------------------------------------------------------

    def _requested(self) -> AbstractContextManager[None]:
        """Within this block, an autoscaler makes room for the trials that may run side by side."""
        resources, trials = self.spec.resources, self.spec.search.max_concurrent_trials
        return requested(resources.cpu, resources.gpu, None if self._address is None else trials)

    def _log_notes(self) -> None:
        log.info("%s: in %s", self.folder.name, self.folder.path)
        if self.prepared.warm_start is not None:
            log.info("%s", self.prepared.warm_start)
        for line in without_effect(self.spec):
            log.info("%s", line)


class ComparisonRun(SweepRun):
    """One run of a comparison: its trials follow a plan, and its arms' models are compared."""

    def experiment(self) -> Experiment:
        return comparison_experiment(self.prepared, self.folder)

    def log_models(self, sweep: RunningSweep, checkpoints: Mapping[int, Path]) -> None:
        """Writes and logs the best trial's fold models, and the arms' reconstructions of the same
        test images."""
        super().log_models(sweep, checkpoints)
        images = self.prepared.dataset.first_test_images(RECONSTRUCTED)
        if images is None:
            return
        try:
            log_reconstructions(
                sweep.events, self.trials, checkpoints, self.work, images, self.folder
            )
        except Exception as error:  # a user's task may raise anything
            log.warning("the report will lack the arms' reconstructions: %s", first_line(error))


def _kind(prepared: Prepared) -> type[SweepRun]:
    return ComparisonRun if prepared.arms else SweepRun
