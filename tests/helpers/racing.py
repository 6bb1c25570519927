"""Sweeps without Ray: random curves, a fake of Tune's controller whose events come in any order,
and the checks."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from hypothesis import strategies as st
from ray.tune.experiment import Trial
from ray.tune.schedulers import TrialScheduler

from foldrace.search.scheduling.asha import Race
from foldrace.search.scheduling.base import LadderScheduler, RunState
from foldrace.search.scheduling.bracket import Rule
from foldrace.search.scheduling.budget import Budget
from foldrace.search.scheduling.promotion import PromotionScheduler
from foldrace.trainables.training.ladder import (
    Rung,
    aligned_points,
    default_ladder,
    lockstep_ladder,
)
from foldrace.trainables.training.reports import EpochReport, FoldReport

PLAIN = Rule(first_wave=None, margin=None)


def make_report(losses: np.ndarray, ladder: Sequence[Rung], position: int) -> EpochReport:
    """What a trial says at an aligned point; losses (K, E), not finite where it diverges."""
    points = aligned_points(ladder)
    point = points[position]
    broken = not np.isfinite(losses[: point.folds, : point.epochs]).all()
    folds = tuple(
        FoldReport(
            fold,
            point.epochs,
            0 if broken else point.epochs,
            broken,
            "diverged" if broken else None,
            {"val_loss": math.inf if broken else float(losses[fold, point.epochs - 1])},
        )
        for fold in range(point.folds)
    )
    reached = [rung for rung in ladder if points.index(rung) <= position - broken]
    return EpochReport(
        epoch=point.epochs,
        folds=folds,
        fold_epochs=point.cost,
        seconds=float(point.cost),
        finished=broken or position == len(points) - 1,
        rungs=tuple(tuple(losses[: rung.folds, rung.epochs - 1].tolist()) for rung in reached),
        heading=sum(points.index(rung) < position for rung in ladder),
    )


def make_result(number: int, report: EpochReport) -> dict[str, Any]:
    result = {
        "trial": number,
        "report": report,
        "fold_epochs": report.fold_epochs,
        "epoch": report.epoch,
    }
    return result if report.diverged else {**result, "val_loss": report.metrics["val_loss"]}


class Watched(Race):
    """A race that notes who is let pass where, and by what right."""

    def __init__(self, *args: Any, **keywords: Any) -> None:
        super().__init__(*args, **keywords)
        self.promotions: list[tuple[int, int]] = []
        self.earlier: dict[int, int] = {}  # the rungs that trials had reached before a restart
        self.worst_rank = (
            0.0  # of those that were promoted before the race was exhausted: rank ÷ places
        )

    def promote(self, trial: int) -> None:
        runner = self.runners[trial]
        rung = runner.paused_at
        assert rung is not None
        assert math.isfinite(runner.score(rung)), "a broken trial went on"
        if not self.exhausted:
            scores = runner.bracket.scores[rung]
            places = int(len(scores) / self.rule.reduction_factor + 1e-9)
            rank = scores.index((runner.score(rung), trial)) + 1
            self.worst_rank = max(self.worst_rank, rank / places if places else math.inf)
        super().promote(trial)
        self.promotions.append((trial, rung))

    def allowed(self, trial: int) -> int:
        """The rung up to which a trial may train."""
        first = self.runners[trial].bracket.first
        return max(
            [
                first,
                self.earlier.get(trial, 0),
                *(rung + 1 for promoted, rung in self.promotions if promoted == trial),
            ]
        )


class FakeTrial:
    """What schedulers see of a Tune trial; ``checkpoint`` is the position that is on disk."""

    def __init__(self, number: int) -> None:
        self.number, self.trial_id = number, f"{number:08d}"
        self.config = {"trial": number}
        self.status: str = Trial.PENDING
        self.last_result: Mapping[str, Any] = {}
        self.position = self.checkpoint = 0

    def set_status(self, status: str) -> None:
        self.status = status


@dataclass(frozen=True)
class Plan:
    """A sweep to be: all that decides what happens in it.

    Attributes:
        losses: (C, K, E).
        failures: (trial, position) at which a worker dies, once each, in training; with ``saving``
            while it pauses.
        retries: whether Tune tries a failed trial again.
        saves: whether pausing takes a step, in which a trial still counts as running, as it does
            in Tune.
        picks: of the events that could come next, which does; in turn. None: the oldest.
    """

    ladder: tuple[Rung, ...]
    rule: Rule
    losses: np.ndarray
    workers: int = 1
    planned: int | None = None
    budget: Budget = Budget()  # noqa: RUF009 (frozen)
    failures: frozenset[tuple[int, int]] = frozenset()
    retries: bool = False
    saves: bool = False
    picks: tuple[int, ...] | None = None

    def scheduler(self, kind: type[LadderScheduler] = PromotionScheduler) -> LadderScheduler:
        race = Watched(self.ladder, self.rule, trials=self.planned or len(self.losses))
        return kind("fake", race, self.budget)

    @property
    def good(self) -> list[int]:
        """The configurations that can be evaluated in full."""
        return [number for number, losses in enumerate(self.losses) if np.isfinite(losses).all()]


@dataclass
class FakeTune:
    """Ray's TuneController at the seams to its scheduler and its searcher, one step at a time."""

    plan: Plan
    scheduler: LadderScheduler
    trials: list[FakeTrial] = field(default_factory=list)
    pending: list[FakeTrial] = field(default_factory=list)
    busy: list[tuple[FakeTrial, str]] = field(default_factory=list)
    ended: bool = False
    steps: int = 0
    fold_epochs: int = 0
    arrivals: list[int] = field(default_factory=list)
    failed: set[tuple[int, int]] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.points = aligned_points(self.plan.ladder)

    @property
    def race(self) -> Watched:
        race = self.scheduler.race
        assert isinstance(race, Watched)
        return race

    @property
    def live(self) -> RunState:
        return RunState(slots=lambda: self.plan.workers, elapsed=lambda: float(self.fold_epochs))

    def run(
        self, check: Callable[[FakeTune], None] = lambda _: None, *, until: int | None = None
    ) -> FakeTune:
        """To the end, or up to a step of that number."""
        idle = 0
        with self.scheduler.acting_on(self.live):
            while self.alive and self.steps != until:
                before = len(self.trials), self.ended, self.fold_epochs, len(self.busy)
                self.step()
                check(self)
                idle = 0 if self.busy or before != self._marks() else idle + 1
                assert idle < 4, "nothing runs, and nothing is over"
        return self

    def _marks(self) -> tuple[int, bool, int, int]:
        return len(self.trials), self.ended, self.fold_epochs, len(self.busy)

    @property
    def alive(self) -> bool:
        return not self.ended or any(
            trial.status not in (Trial.TERMINATED, Trial.ERROR) for trial in self.trials
        )

    def step(self) -> None:
        self.steps += 1
        self._draw()
        self._start()
        if self.busy:
            picks = self.plan.picks
            event = picks[self.steps % len(picks)] % len(self.busy) if picks else 0
            trial, kind = self.busy.pop(event)
            self._train(trial) if kind == "train" else self._saved(trial)

    @property
    def search_alg(self) -> FakeTune:
        """Tune's searcher, of which schedulers ask whether it `is_finished`."""
        return self

    def is_finished(self) -> bool:
        return self.ended

    def _draw(self) -> None:
        while not self.ended and not self.pending:
            if self.scheduler.over():
                self.ended = True
            elif len(self.trials) == len(self.plan.losses):
                self.scheduler.exhausted()
                return
            elif not self.scheduler.open():
                return
            else:
                self.add(FakeTrial(len(self.trials)))

    def add(self, trial: FakeTrial) -> None:
        if trial not in self.trials:
            self.trials.append(trial)
        self.scheduler.on_trial_add(self, trial)
        if trial.status == Trial.PENDING:
            self.pending.append(trial)

    def _start(self) -> None:
        chosen = self.scheduler.choose_trial_to_run(self)
        if chosen is not None and chosen not in self.pending:
            chosen.set_status(Trial.PENDING)
            self.pending.insert(0, chosen)
        while self.pending and len(self.busy) < self.plan.workers:
            trial = self.pending.pop(0)
            trial.position = trial.checkpoint
            trial.set_status(Trial.RUNNING)
            self.busy.append((trial, "train"))

    def _train(self, trial: FakeTrial) -> None:
        place = (trial.number, trial.position)
        if place in self.plan.failures - self.failed:
            self.failed.add(place)
            self._fail(trial)
            return
        before = self.points[trial.position - 1].cost if trial.position else 0
        self.fold_epochs += self.points[trial.position].cost - before
        report = make_report(self.plan.losses[trial.number], self.plan.ladder, trial.position)
        trial.position += 1
        result = make_result(trial.number, report)
        decision = (
            TrialScheduler.STOP
            if report.finished
            else self.scheduler.on_trial_result(self, trial, result)
        )
        trial.last_result = result
        if report.finished and not report.diverged:
            self.arrivals.append(trial.number)
        if decision == TrialScheduler.CONTINUE:
            self.busy.append((trial, "train"))
        elif decision == TrialScheduler.STOP:
            self.stop_trial(trial)
        elif self.plan.saves:
            self.busy.append((trial, "save"))
        else:
            self._saved(trial)

    def _saved(self, trial: FakeTrial) -> None:
        if self.plan.saves and (trial.number, -trial.position) in self.plan.failures - self.failed:
            self.failed.add((trial.number, -trial.position))
            self._fail(trial)
        else:
            trial.checkpoint = trial.position
            trial.set_status(Trial.PAUSED)

    def _fail(self, trial: FakeTrial) -> None:
        trial.set_status(Trial.ERROR)
        self.scheduler.on_trial_error(self, trial)
        if self.plan.retries:
            trial.set_status(Trial.PENDING)
            self.add(trial)

    def _set_trial_status(self, trial: FakeTrial, status: str) -> None:
        trial.set_status(status)

    def stop_trial(self, trial: FakeTrial) -> None:
        if trial.status in (Trial.PAUSED, Trial.PENDING):
            self.scheduler.on_trial_remove(self, trial)
        elif trial.status == Trial.RUNNING:
            self.scheduler.on_trial_complete(self, trial, trial.last_result)
        trial.set_status(Trial.TERMINATED)


# --- what always holds ---------------------------------------------------------------------------


def check_race(race: Race) -> None:
    """Rung sets are sorted, hold a trial once, and who waits is among those that have been
    there."""
    waiting: dict[int, list[int]] = {number: [] for number in race.runners}
    for bracket in race.brackets:
        for rung, (scores, wait) in enumerate(zip(bracket.scores, bracket.paused, strict=True)):
            assert scores == sorted(scores) and wait == sorted(wait)
            assert len({trial for _, trial in scores}) == len(scores), "a trial twice at a rung"
            assert set(wait) <= set(scores)
            for score, trial in scores:
                losses = race.runners[trial].losses[rung]
                assert len(losses) == race.ladder[rung].folds, "compared on other folds"
                assert race.runners[trial].bracket is bracket
                mean = math.fsum(losses) / len(losses)
                assert score == (mean if math.isfinite(mean) else math.inf)
            for _, trial in wait:
                waiting[trial].append(rung)
    for number, runner in race.runners.items():
        assert waiting[number] == ([] if runner.paused_at is None else [runner.paused_at])
        assert not (runner.ended and runner.paused_at is not None)


def check_sweep(sweep: FakeTune) -> None:
    """The race is sound, agrees with the trials' states, and has allowed all that was trained."""
    race = sweep.race
    check_race(race)
    assert len(sweep.busy) <= sweep.plan.workers
    saving = {trial.number for trial, kind in sweep.busy if kind == "save"}
    for trial in sweep.trials:
        runner = race.runners[trial.number]
        assert trial.position <= 1 + sweep.points.index(
            sweep.plan.ladder[race.allowed(trial.number)]
        ), "unpromoted"
        assert (runner.paused_at is not None) == (
            trial.status == Trial.PAUSED or trial.number in saving
        )
        if trial.status in (Trial.TERMINATED, Trial.ERROR):
            assert runner.ended


# --- random sweeps -------------------------------------------------------------------------------


def random_losses(seed: int, shape: tuple[int, int, int], diverging: float) -> np.ndarray:
    """(C, K, E): falling, with many ties; so many of the configurations diverge, at any place."""
    rng = np.random.default_rng(seed)
    count, folds, epochs = shape
    level = rng.integers(0, 12, (count, 1, 1)) + rng.integers(0, 4, (count, folds, 1))
    losses = (
        level
        + rng.integers(0, 12, (count, 1, 1)) / np.arange(1, epochs + 1)
        + rng.integers(0, 2, shape)
    )
    for number in np.flatnonzero(rng.random(count) < diverging):
        losses[number, rng.integers(folds), rng.integers(epochs) :] = rng.choice(
            [np.nan, np.inf, -np.inf]
        )
    return np.asarray(losses, dtype=np.float64)


@st.composite
def ladders(draw: st.DrawFn) -> tuple[Rung, ...]:
    """A default one, a lock-step one, or any that rises."""
    epochs, folds = draw(st.integers(1, 9)), draw(st.integers(1, 4))
    factor, grace = draw(st.sampled_from([2.0, 3.0, 4.5])), draw(st.integers(1, 3))
    if draw(st.booleans()):
        make = draw(st.sampled_from([default_ladder, lockstep_ladder]))
        return tuple(make(epochs, folds, reduction_factor=factor, grace_epochs=grace))
    rungs = [Rung(draw(st.integers(1, folds)), draw(st.integers(1, epochs)))]
    for _ in range(draw(st.integers(0, 3))):
        rung = Rung(
            draw(st.integers(rungs[-1].folds, folds)), draw(st.integers(rungs[-1].epochs, epochs))
        )
        rungs += [rung] if rung != rungs[-1] else []
    return tuple(rungs)


@st.composite
def rules(draw: st.DrawFn, ladder: Sequence[Rung]) -> Rule:
    return Rule(
        reduction_factor=draw(st.sampled_from([1.5, 2.0, 3.0, 4.0])),
        first_wave=draw(st.sampled_from([None, 0.0, 3 / 8, 1.0])),
        margin=draw(st.sampled_from([None, 1.0, 3.0])),
        brackets=draw(st.integers(1, min(3, len(ladder)))),
    )


@st.composite
def plans(
    draw: st.DrawFn,
    *,
    diverging: Sequence[float] = (0.0, 0.4),
    fail: bool = False,
    workers: int = 5,
) -> Plan:
    ladder = draw(ladders())
    count = draw(st.integers(1, 14))
    points = len(aligned_points(ladder))
    retries = fail and draw(st.booleans())
    places = st.tuples(st.integers(0, count - 1), st.integers(-points, points - 1))
    shape = (count, ladder[-1].folds, ladder[-1].epochs)
    return Plan(
        ladder=ladder,
        rule=draw(rules(ladder)),
        losses=random_losses(
            draw(st.integers(0, 2**32 - 1)), shape, draw(st.sampled_from(diverging))
        ),
        workers=draw(st.integers(1, workers)),
        planned=draw(st.sampled_from([count, 2 * count, max(1, count // 2)])),
        failures=draw(st.frozensets(places, max_size=4)) if fail else frozenset(),
        retries=retries,
        saves=draw(st.booleans()),
        picks=draw(st.none() | st.lists(st.integers(0, 59), min_size=1, max_size=9).map(tuple)),
    )


def budgets(cost: int) -> Iterator[Budget]:
    """A few that bite, none of them below one full evaluation."""
    yield from (Budget(fold_epochs=cost * share // 4) for share in (4, 5, 7, 12))
    yield from (Budget(seconds=cost * share) for share in (0.01, 0.5, 1.5))
    yield Budget(target=9.0)


def restarted(sweep: FakeTune, scheduler: LadderScheduler, order: Sequence[int]) -> FakeTune:
    """The sweep as Tune restores it: unfinished trials become PENDING, at their last checkpoint,
    and all are added again in whatever order; a searcher that has ended stays so."""
    again = replace(sweep, scheduler=scheduler, pending=[], busy=[], trials=[])
    with scheduler.acting_on(again.live):
        for trial in sorted(
            map(copy.copy, sweep.trials), key=lambda trial: order[trial.number % len(order)]
        ):
            trial.position = trial.checkpoint
            if trial.status not in (Trial.TERMINATED, Trial.ERROR):
                trial.set_status(Trial.PENDING)
            again.add(trial)
    reports = {
        trial.number: trial.last_result["report"] for trial in again.trials if trial.last_result
    }
    again.race.earlier = {number: len(one.rungs) - 1 for number, one in reports.items()}
    again.trials.sort(key=lambda trial: trial.number)
    return again


def reloaded(sweep: FakeTune, scheduler: LadderScheduler, path: str) -> FakeTune:
    """The sweep with a new scheduler that is given the trials as they are, and the old one's saved
    state."""
    for trial in sweep.trials:
        scheduler.on_trial_add(sweep, trial)
    sweep.scheduler.save(path)
    scheduler.restore(path)
    return replace(sweep, scheduler=scheduler)


def standing(sweep: FakeTune) -> tuple[Any, ...]:
    """Where a sweep stands: scores at every rung, arrivals in their order, and the winner."""
    scores = [bracket.scores for bracket in sweep.race.brackets]
    leader = sweep.race.incumbent
    return scores, sweep.arrivals, leader and leader.number
