"""Delivery: few calls, every record once whatever breaks, and nobody who waits for MLflow but the
thread that sends."""

from __future__ import annotations

import json
import logging
import sqlite3
import threading
import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from ray.tune.experiment import Trial

from foldrace.cli.app import main
from foldrace.search.recording.delivery import Delivery, Patience
from foldrace.search.recording.events import (
    Closed,
    Event,
    Files,
    Finished,
    Incumbent,
    Reported,
    Started,
)
from foldrace.search.recording.folder import SweepFolder, SweepState, create_sweep_folder
from foldrace.search.recording.mlflow_internals import RETRIES, Cause, cause_of
from foldrace.search.recording.outbox import OUTBOX, Outbox, waiting_records
from foldrace.search.recording.schema import Outcome
from foldrace.search.recording.sweep_outbox import OutboxSink, recording
from foldrace.search.recording.tracking import connect
from foldrace.search.recording.writer import MlflowWriter
from foldrace.search.spec.sweep_spec import parse_spec
from foldrace.search.sweeps.begin import begin_record
from foldrace.search.tune.callback import RunningSweep, SweepCallback
from foldrace.search.tune.state import TrialTable
from foldrace.trainables.tasks.loading import load_task
from foldrace.trainables.tasks.objective import LOSS
from tests.benchmarks.tracking_server import TrackingServer
from tests.helpers.stores import new_store
from tests.helpers.sweeps import environment
from tests.search.recording.test_writer import Counting, dataset, report

DEADLINE = 60.0
AT_ONCE = Patience(interval=0.0, first=0.001, longest=0.001)


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> MlflowClient:
    return new_store(tmp_path_factory.mktemp("store"))


@pytest.fixture
def said(caplog: pytest.LogCaptureFixture) -> Callable[[], list[str]]:
    """What the package has logged; not how much is left after 2 s, which depends on the disk."""
    caplog.set_level(logging.INFO, logger="foldrace")
    return lambda: [
        record.getMessage()
        for record in caplog.records
        if record.name.startswith("foldrace.") and "records %s" not in record.msg
    ]


@pytest.fixture
def make_experiment(client: MlflowClient, tmp_path: Path) -> Callable[[], str]:
    return lambda: str(
        client.create_experiment(uuid.uuid4().hex, artifact_location=(tmp_path / "art").as_uri())
    )


def sweep_events(trials: int = 2) -> list[Event]:
    """A sweep from its first trial to its end; the times are in ms, and rise."""
    found: list[Event] = []
    for trial in range(trials):
        at = 10_000 * (trial + 1)
        found.append(
            Started(
                trial, {"lr": 0.1 / (trial + 1), "optimizer": "adam"}, {"arm": f"arm {trial}"}, at
            )
        )
        reports = [report(epoch, 0.4 - 0.1 * epoch, 0.5) for epoch in (1, 2)]
        for epoch, told in enumerate(reports, 1):
            found.append(
                Reported(
                    trial, told, "iVBORw0KGgo=" if epoch == 1 else None, at + 10 * epoch, 1234
                )
            )
        ending = Outcome.FAILED if trial % 2 else Outcome.COMPLETED
        found.append(
            Finished(
                trial, ending, reports[-1].folds, "why", "Traceback" if trial % 2 else "", at + 100
            )
        )
        found.append(Incumbent(trial, 0.3, 0.1, 4 * (trial + 1), at + 101))
    return [*found, Closed(Outcome.COMPLETED, {"trials_completed": 1}, "**note**", 99_000)]


POINTS = (
    "SELECT run_uuid, key, step, value, timestamp FROM metrics WHERE run_uuid IN (SELECT run_uuid"
    " FROM runs "
)


def state_of(client: MlflowClient, experiment: str) -> dict[str, Any]:
    """All that is stored of each run, by its name; a run that is there twice, or a point, is an
    error."""
    runs = client.search_runs([experiment], max_results=1000)
    names = {run.info.run_id: str(run.info.run_name) for run in runs}
    assert len(set(names.values())) == len(names)
    points: dict[str, list[tuple[object, ...]]] = {name: [] for name in names.values()}
    with closing(sqlite3.connect(str(client.tracking_uri).removeprefix("sqlite:///"))) as base:
        for run, *point in base.execute(POINTS + "WHERE experiment_id = ?)", [experiment]):
            points[names[run]].append(tuple(point))
    found: dict[str, Any] = {}
    for run in runs:
        own = points[names[run.info.run_id]]
        assert len({point[:2] for point in own}) == len(own), run.info.run_name
        tags = {
            name: value for name, value in run.data.tags.items() if name.startswith("foldrace.")
        }
        del tags["foldrace.key"], tags["foldrace.sweep_key"]
        place = Path(run.info.artifact_uri.removeprefix("file://"))
        found[str(run.info.run_name)] = {
            "status": run.info.status,
            "times": (run.info.start_time, run.info.end_time),
            "params": run.data.params,
            "tags": tags,
            "points": sorted(own),
            "files": sorted(
                str(path.relative_to(place)) for path in place.rglob("*") if path.is_file()
            ),
            "parent": names.get(run.data.tags.get("mlflow.parentRunId", "")),
        }
    return found


def one_by_one(client: MlflowClient, folder: Path, events: Sequence[Event]) -> dict[str, Any]:
    """What a writer leaves that writes each event at once."""
    experiment = str(client.create_experiment(uuid.uuid4().hex, artifact_location=folder.as_uri()))
    writer = MlflowWriter(client, experiment, "ae", uuid.uuid4().hex)
    for event in events:
        writer.apply([event])
    return state_of(client, experiment)


@pytest.fixture(scope="module")
def expected(client: MlflowClient, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Of the whole sweep."""
    return one_by_one(client, tmp_path_factory.mktemp("art"), sweep_events())


@pytest.fixture(scope="module")
def of_one(client: MlflowClient, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Of a sweep of one trial."""
    return one_by_one(client, tmp_path_factory.mktemp("art"), sweep_events(1))


def outbox_with(folder: Path, events: Sequence[Event]) -> Outbox:
    outbox = Outbox(folder)
    for event in events:
        outbox.append(event)
    return outbox


def deliver(outbox: Outbox, writer: Any, **options: Any) -> bool:
    delivery = Delivery(outbox, writer, AT_ONCE, **options)
    delivery.start()
    return delivery.drain(DEADLINE)


# --- what is stored ------------------------------------------------------------------------------


def test_events_that_are_delivered_together_leave_what_events_one_by_one_leave(
    client: MlflowClient,
    make_experiment: Callable[[], str],
    tmp_path: Path,
    expected: dict[str, Any],
) -> None:
    experiment = make_experiment()
    outbox = outbox_with(tmp_path / "outbox", sweep_events())
    assert deliver(outbox, MlflowWriter(client, experiment, "ae", uuid.uuid4().hex))
    assert state_of(client, experiment) == expected
    trial = expected["trial 0000"]
    assert (trial["status"], trial["times"], trial["parent"]) == (
        "FINISHED",
        (10_000, 10_100),
        "ae",
    )
    assert expected["trial 0001 fold 1"]["times"] == (20_010, 20_100)
    assert expected["trial 0001 fold 1"]["tags"]["foldrace.arm"] == "arm 1"
    assert ("val_loss", 2, 0.5, 20_020) in expected["trial 0001 fold 1"]["points"]
    assert expected["trial 0001"]["files"] == ["error.txt", "reconstructions/epoch-001.png"]
    assert expected["ae"]["times"] == (10_000, 99_000)


def test_a_backlog_takes_three_calls_a_run(
    client: MlflowClient, make_experiment: Callable[[], str], tmp_path: Path
) -> None:
    counting = Counting(client)
    outbox = outbox_with(tmp_path / "outbox", sweep_events(trials=5))
    assert deliver(outbox, MlflowWriter(counting, make_experiment(), "ae", uuid.uuid4().hex))  # type: ignore[arg-type]
    calls = Counter(name for name, _ in counting.calls.elements())
    runs = 1 + 5 * 3
    assert [calls.pop(name) for name in ("create_run", "log_batch", "set_terminated")] == [
        runs
    ] * 3
    assert calls.pop("search_runs") == 1
    assert calls == {"log_artifact": 5 + 2}  # a picture each, and the tracebacks


def test_more_than_mlflow_takes_at_once_is_written_in_several_calls(
    client: MlflowClient, make_experiment: Callable[[], str]
) -> None:
    experiment, counting = make_experiment(), Counting(client)
    writer = MlflowWriter(counting, experiment, "ae", uuid.uuid4().hex)  # type: ignore[arg-type]
    params = {f"p{number}": number for number in range(150)}
    many = [Reported(0, report(epoch, 0.5), None, epoch, None) for epoch in range(1, 501)]
    writer.apply([Started(0, params, {}, 1), *many])
    stored = state_of(client, experiment)
    assert len(stored["trial 0000"]["params"]) == 150
    assert [len(stored[name]["points"]) for name in ("trial 0000", "trial 0000 fold 0")] == [
        500 * 7,
        500 * 4,
    ]
    assert (
        sum(calls for (name, _), calls in counting.calls.items() if name == "log_batch") == 4 + 2
    )


def test_files_follow_through_the_spool(
    client: MlflowClient, make_experiment: Callable[[], str], tmp_path: Path
) -> None:
    (tmp_path / "winner").mkdir()
    (tmp_path / "winner" / "model.pt").write_text("weights")
    experiment = make_experiment()
    outbox = Outbox(tmp_path / "outbox")
    OutboxSink(outbox).files((0, 1), "winner", "models")
    assert deliver(outbox, MlflowWriter(client, experiment, "ae", uuid.uuid4().hex, tmp_path))
    assert state_of(client, experiment)["trial 0000 fold 1"]["files"] == ["models/model.pt"]


# --- crashes and outages -------------------------------------------------------------------------


class Breaking:
    """A client of which the calls from number ``first`` on, ``count`` of them, fail: before or
    after they have done their work."""

    def __init__(
        self, client: MlflowClient, first: int, error: BaseException, *, late: bool, count: int = 1
    ) -> None:
        self._client, self._error, self._late = client, error, late
        self._broken = range(first, first + count)
        self.calls = 0

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._client, name)

        def call(*args: Any, **options: Any) -> Any:
            self.calls += 1
            broken = self.calls in self._broken
            result = method(*args, **options) if self._late or not broken else None
            if broken:
                raise self._error
            return result

        return call


CALLS = 1 + 3 * 4 + 1  # of a sweep of one trial in one batch: the search, three a run, its picture


@pytest.mark.parametrize("late", [False, True], ids=["request lost", "answer lost"])
def test_wherever_the_store_fails_for_a_while_nothing_is_lost_or_there_twice(
    client: MlflowClient,
    make_experiment: Callable[[], str],
    tmp_path: Path,
    of_one: dict[str, Any],
    late: bool,
    caplog: pytest.LogCaptureFixture,
    said: Callable[[], list[str]],
) -> None:
    for first in range(1, CALLS + 1):
        experiment, error = (
            make_experiment(),
            MlflowException("API request to http://there/api failed with exception"),
        )
        breaking = Breaking(client, first, error, late=late, count=1 if late else 3)
        outbox = outbox_with(tmp_path / str(first), sweep_events(1))
        caplog.clear()
        assert deliver(outbox, MlflowWriter(breaking, experiment, "ae", uuid.uuid4().hex))  # type: ignore[arg-type]
        assert state_of(client, experiment) == of_one, first
        assert [line.partition(";")[0] for line in said()] == [
            "recording waits: http://there does not answer",
            "recording resumed",
        ], first


@pytest.mark.parametrize("late", [False, True], ids=["request lost", "answer lost"])
def test_wherever_the_process_is_killed_the_next_one_completes_the_record(
    client: MlflowClient,
    make_experiment: Callable[[], str],
    tmp_path: Path,
    of_one: dict[str, Any],
    late: bool,
) -> None:
    class Killed(BaseException):
        pass

    for first in range(1, CALLS + 1):
        experiment, key = make_experiment(), uuid.uuid4().hex
        breaking = Breaking(client, first, Killed(), late=late)
        outbox = outbox_with(tmp_path / str(first), sweep_events(1))
        with pytest.raises(Killed):
            batch = outbox.take(500)
            MlflowWriter(breaking, experiment, "ae", key).apply(
                [one.event for one in batch.events]
            )  # type: ignore[arg-type]
        assert deliver(Outbox(tmp_path / str(first)), MlflowWriter(client, experiment, "ae", key))
        assert state_of(client, experiment) == of_one, first
    assert breaking.calls == CALLS


def test_killed_in_the_middle_of_a_trial_its_later_folds_are_tagged_like_the_trial(
    client: MlflowClient, make_experiment: Callable[[], str], of_one: dict[str, Any]
) -> None:
    experiment, key, events = make_experiment(), uuid.uuid4().hex, sweep_events(1)
    for event in events:
        MlflowWriter(client, experiment, "ae", key).apply([event])  # each in a process of its own
    assert state_of(client, experiment) == of_one


def test_all_delivered_but_the_cursor_lost_adds_nothing(
    client: MlflowClient,
    make_experiment: Callable[[], str],
    tmp_path: Path,
    expected: dict[str, Any],
) -> None:
    experiment, key = make_experiment(), uuid.uuid4().hex
    outbox_with(tmp_path / "outbox", sweep_events())
    for _ in range(2):
        writer, outbox = MlflowWriter(client, experiment, "ae", key), Outbox(tmp_path / "outbox")
        writer.apply([waiting.event for waiting in outbox.take(500).events])
    assert state_of(client, experiment) == expected


def test_the_waits_double_up_to_the_longest_and_begin_again_after_a_success(
    tmp_path: Path,
) -> None:
    fails = iter([True] * 5 + [False] + [True] * 2 + [False])
    waited: list[float] = []
    through = threading.Event()

    class Writer:
        written = 0

        def apply(self, events: Sequence[Event], *, suspect: bool = False) -> None:
            if next(fails):
                raise ConnectionError("refused")
            self.written += 1
            if self.written == 2:
                through.set()

    def wait(event: threading.Event, seconds: float) -> None:
        waited.append(seconds)
        event.wait(0.001)

    outbox = outbox_with(tmp_path / "outbox", sweep_events()[:2])
    delivery = Delivery(
        outbox,
        Writer(),
        Patience(interval=99.0, most=1, first=1.0, longest=4.0),
        wait=wait,
    )
    delivery.start()
    assert through.wait(DEADLINE) and delivery.drain(DEADLINE)
    assert [seconds for seconds in waited if seconds != 99.0] == [1, 2, 4, 4, 4, 1, 2]


# --- what is refused -----------------------------------------------------------------------------


def test_what_mlflow_refuses_is_set_aside_said_once_and_holds_nothing_up(
    client: MlflowClient,
    make_experiment: Callable[[], str],
    tmp_path: Path,
    expected: dict[str, Any],
    said: Callable[[], list[str]],
) -> None:
    experiment, events = make_experiment(), sweep_events()
    other = Started(0, {"lr": 0.9}, {}, 10_001)  # a param that has changed
    bad = Reported(1, report(3, 0.5, 0.5), None, 20_050, None)
    bad.report.folds[0].metrics["val_(%)"] = 0.5  # type: ignore[index]
    gone = Files((), "no/such/file", "", 20_051)
    mixed = [events[0], other, *events[1:8], bad, gone, *events[8:]]
    outbox = outbox_with(tmp_path / "outbox", mixed)
    assert deliver(outbox, MlflowWriter(client, experiment, "ae", uuid.uuid4().hex, tmp_path))
    stored = state_of(client, experiment)
    for name in ("trial 0000", "trial 0000 fold 1", "ae"):
        assert stored[name] == expected[name]
    assert stored["trial 0001"]["status"] == "FAILED"
    entries = [json.loads(line) for line in outbox.refused.read_text().splitlines()]
    assert [json.loads(entry["record"])["event"] for entry in entries] == [
        "started",
        "reported",
        "files",
    ]
    assert "Changing param values" in entries[0]["reason"] and "val_(%)" in entries[1]["reason"]
    lines = said()
    assert len(lines) == 2 and "refused a record" in lines[0] and "refused 3 records" in lines[1]


@pytest.mark.parametrize(
    "error", [PermissionError("403"), MlflowException("locked", 2)], ids=["folder", "database"]
)
def test_a_store_that_is_only_busy_or_closed_refuses_nothing(
    tmp_path: Path, error: Exception
) -> None:
    class Writer:
        written = 0

        def apply(self, events: Sequence[Event], *, suspect: bool = False) -> None:
            self.written += 1
            if self.written < 4:
                raise error

    outbox = outbox_with(tmp_path / "outbox", sweep_events())
    assert deliver(outbox, Writer()) and not outbox.refused.exists()


@contextmanager
def failing_at_metric(base: Path, name: str) -> Iterator[None]:
    """Within the block, a database fails at the values of a metric as it does when it is full."""
    with closing(sqlite3.connect(base)) as store, store:
        store.execute(
            f"CREATE TRIGGER poison BEFORE INSERT ON metrics WHEN NEW.key = '{name}'"
            " BEGIN SELECT json('what no JSON is'); END"
        )
    try:
        yield
    finally:
        with closing(sqlite3.connect(base)) as store, store:
            store.execute("DROP TRIGGER poison")


def base_of(client: MlflowClient) -> Path:
    return Path(str(client.tracking_uri).removeprefix("sqlite:///"))


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TrackingServer]:
    server = TrackingServer(tmp_path_factory.mktemp("served"), environment())
    server.start()
    yield server
    server.kill()


def with_bad_metric() -> list[Event]:
    """A sweep with one metric that the database will fail at, beside others in a report."""
    bad = Reported(1, report(3, 0.5, 0.5), None, 20_050, None)
    bad.report.folds[0].metrics["val_odd"] = 0.5  # type: ignore[index]
    events = sweep_events()
    return [*events[:8], bad, *events[8:]]


@pytest.mark.parametrize("served", [False, True], ids=["a database here", "a server"])
def test_what_the_store_itself_fails_at_is_set_aside_once_it_takes_all_else(
    client: MlflowClient,
    server: TrackingServer,
    tmp_path: Path,
    said: Callable[[], list[str]],
    served: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A server has one word for a database that is away and for a value that it cannot store."""
    monkeypatch.setenv(RETRIES, "0")  # as during a sweep
    base = server.root / "server.db" if served else base_of(client)
    chosen = connect(server.uri) if served else client
    place = None if served else tmp_path.as_uri()  # a server has its own
    experiment = str(chosen.create_experiment(uuid.uuid4().hex, artifact_location=place))
    outbox = outbox_with(tmp_path / "outbox", with_bad_metric())
    writer = MlflowWriter(chosen, experiment, "ae", uuid.uuid4().hex, tmp_path)
    with failing_at_metric(base, "val_odd"):
        assert deliver(outbox, writer)
    runs = {str(run.info.run_name): run for run in chosen.search_runs([experiment])}
    assert len(runs) == 7 and runs["ae"].info.status == "FINISHED"
    assert all(run.info.status != "RUNNING" for run in runs.values())
    metrics = runs["trial 0001 fold 0"].data.metrics  # beside the bad one all the rest is there
    assert metrics["val_loss"] == 0.5 and "val_odd" not in metrics
    [entry] = [json.loads(line) for line in outbox.refused.read_text().splitlines()]
    assert json.loads(entry["record"])["event"] == "reported"
    waits, resumed, first, last = said()
    assert "recording waits" in waits and "recording resumed" in resumed
    assert "refused a record" in first and "refused 1 record, kept in" in last


def test_a_drain_ends_where_only_the_same_is_written_again_and_again(
    client: MlflowClient, make_experiment: Callable[[], str], tmp_path: Path
) -> None:
    outbox = outbox_with(tmp_path / "outbox", with_bad_metric())
    writer = MlflowWriter(client, make_experiment(), "ae", uuid.uuid4().hex, tmp_path)
    patient = Patience(interval=0.0, first=0.01, longest=0.01, tries=10**9)
    with failing_at_metric(base_of(client), "val_odd"):
        delivery = Delivery(outbox, writer, patient)
        delivery.start()
        assert not delivery.drain(1.0)  # it is written over and over again, and no further
    assert not outbox.refused.exists()
    assert deliver(Outbox(tmp_path / "outbox"), writer)


def test_a_file_that_is_refused_takes_no_metric_with_it(
    client: MlflowClient, make_experiment: Callable[[], str], tmp_path: Path
) -> None:
    class WithoutPictures(Counting):
        """Whose artifact store refuses pictures, and takes other files."""

        def log_artifact(self, run: str, path: str, into: str | None = None) -> None:
            if path.endswith(".png"):
                raise MlflowException("no pictures here")
            self._client.log_artifact(run, path, into)

    experiment, events = make_experiment(), sweep_events(1)
    outbox = outbox_with(tmp_path / "outbox", events)
    writer = MlflowWriter(WithoutPictures(client), experiment, "ae", uuid.uuid4().hex, tmp_path)  # type: ignore[arg-type]
    assert deliver(outbox, writer)
    steps = [point[1] for point in state_of(client, experiment)["trial 0000 fold 0"]["points"]]
    assert set(steps) == {1, 2}
    assert len(outbox.refused.read_text().splitlines()) == 1


def test_an_artifact_store_that_is_away_refuses_nothing(
    client: MlflowClient, make_experiment: Callable[[], str], tmp_path: Path
) -> None:
    class Away(Counting):
        """Whose artifact store fails in a way of its own, for a while."""

        files = 0

        def log_artifact(self, run: str, path: str, into: str | None = None) -> None:
            self.files += 1
            if self.files < 40:
                raise RuntimeError("EndpointConnectionError")
            self._client.log_artifact(run, path, into)

    experiment = make_experiment()
    outbox = outbox_with(tmp_path / "outbox", sweep_events(1))
    away: Any = Away(client)
    assert deliver(outbox, MlflowWriter(away, experiment, "ae", uuid.uuid4().hex, tmp_path))
    assert not outbox.refused.exists() and away.files >= 40


UNCLEAR = RuntimeError("the driver's own")


def test_a_database_that_is_away_refuses_nothing_however_long_it_takes(tmp_path: Path) -> None:
    class Writer:
        written = 0

        def apply(self, events: Sequence[Event], *, suspect: bool = False) -> None:
            self.written += 1
            if self.written < 50:
                raise UNCLEAR

        def answers(self) -> bool:
            return self.written >= 50

    outbox = outbox_with(tmp_path / "outbox", sweep_events())
    assert deliver(outbox, Writer()) and not outbox.refused.exists()


def test_tries_before_an_outage_and_in_it_do_not_count(tmp_path: Path) -> None:
    """Only what fails for no clear reason, several times in succession, is suspect."""
    errors = iter([UNCLEAR, ConnectionError("away")] * 12)
    asked: list[int] = []

    class Writer:
        written = 0

        def apply(self, events: Sequence[Event], *, suspect: bool = False) -> None:
            assert not suspect
            if error := next(errors, None):
                raise error
            self.written += 1

        def answers(self) -> bool:
            asked.append(1)
            return True

    outbox = outbox_with(tmp_path / "outbox", sweep_events())
    assert deliver(outbox, Writer()) and not outbox.refused.exists() and not asked


def test_a_database_that_goes_away_while_the_one_at_fault_is_sought_loses_nothing(
    tmp_path: Path,
) -> None:
    """The store answers once, then is away again for a while: the events wait for it."""
    answers = iter([True, *[False] * 20])

    class Writer:
        written = 0
        got: ClassVar[list[Event]] = []

        def apply(self, events: Sequence[Event], *, suspect: bool = False) -> None:
            self.written += 1
            if self.written < 20:
                raise UNCLEAR
            self.got.extend(events)

        def answers(self) -> bool:
            return next(answers)

    outbox, events = outbox_with(tmp_path / "outbox", sweep_events()), sweep_events()
    assert deliver(outbox, Writer()) and not outbox.refused.exists()
    assert len(Writer.got) == len(events)


@pytest.mark.parametrize(
    ("status", "cause"),
    [(500, Cause.UNCLEAR), (503, Cause.UNCLEAR), (429, Cause.STORE), (404, Cause.STORE)],
)
def test_what_mlflows_client_makes_of_a_servers_answers(
    status: int, cause: Cause, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its own errors, whatever they are called in this version."""
    monkeypatch.setenv(RETRIES, "0")
    with answering(status) as address:
        with pytest.raises(MlflowException) as caught:
            MlflowClient(address).get_run("0" * 32)
        assert cause_of(caught.value) is cause
    with pytest.raises(MlflowException) as caught:
        MlflowClient(address).get_run("0" * 32)  # nobody is there any more
    assert cause_of(caught.value) is Cause.STORE


@contextmanager
def answering(status: int) -> Iterator[str]:
    """A server that has one answer; its address."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            self.end_headers()

        def log_message(self, *_: Any) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()


# --- nobody waits --------------------------------------------------------------------------------


class Stuck:
    """A store that answers nothing until it is let go; it notes who asked."""

    def __init__(self) -> None:
        self.called, self.free, self.written = threading.Event(), threading.Event(), 0
        self.threads: set[str] = set()
        self.events: list[Event] = []

    def apply(self, events: Sequence[Event], *, suspect: bool = False) -> None:
        self.threads.add(threading.current_thread().name)
        self.called.set()
        self.free.wait(DEADLINE)
        self.events += events
        self.written += 1


def tune_trial(number: int) -> Any:
    return SimpleNamespace(
        status=Trial.RUNNING,
        config={"trial": number, "params": {"lr": 0.1}},
        last_result=None,
        error_file=None,
    )


def test_tunes_callback_does_not_wait_for_a_store_that_hangs(tmp_path: Path) -> None:
    stuck, outbox = Stuck(), Outbox(tmp_path / "outbox")
    delivery = Delivery(outbox, stuck, AT_ONCE)
    task = SimpleNamespace(complete=lambda params: {**params, "latent_dim": 16})
    view = SimpleNamespace(update=lambda *_, **__: None)
    ledger, callback = TrialTable(total=2), SweepCallback("stuck")
    delivery.start()
    session = RunningSweep(ledger, OutboxSink(outbox), view, task)  # type: ignore[arg-type]
    with callback.acting_on(session):
        callback.on_trial_start(0, [], tune_trial(0))
        assert stuck.called.wait(DEADLINE)  # from here on a call of the callback's own would hang
        callback.on_trial_result(
            0, [], tune_trial(0), {"report": report(1, 0.5), "reported_ms": 1}
        )
        several = {"report": report(3, 0.5), "reported_ms": 3, "earlier": ((report(2, 0.5), 2),)}
        callback.on_trial_result(0, [], tune_trial(0), several)
        callback.on_trial_complete(0, [], tune_trial(0))
        callback.on_trial_start(0, [], tune_trial(1))
        callback.on_trial_error(0, [], tune_trial(1))
    assert outbox.waiting == 7 and not stuck.free.is_set()
    stuck.free.set()
    assert delivery.drain(DEADLINE) and outbox.waiting == 0
    kinds = [type(event) for event in stuck.events]
    assert kinds == [Started, Reported, Reported, Reported, Finished, Started, Finished]
    reports = [
        (event.report.epoch, event.at) for event in stuck.events if isinstance(event, Reported)
    ]
    assert reports == [(1, 1), (2, 2), (3, 3)]
    assert stuck.threads == {"foldrace-delivery"}


def test_the_end_of_a_sweep_does_not_wait_for_a_store_that_hangs_and_nothing_is_lost(
    tmp_path: Path,
) -> None:
    stuck, outbox = Stuck(), outbox_with(tmp_path / OUTBOX, sweep_events())
    delivery = Delivery(outbox, stuck, AT_ONCE)
    delivery.start()
    assert stuck.called.wait(DEADLINE)
    assert not delivery.drain(0.0)
    outbox.close()
    count = len(sweep_events())
    assert waiting_records(tmp_path) == count
    stuck.free.set()  # too late: it may not touch the outbox any more
    delivery._thread.join(DEADLINE)
    assert waiting_records(tmp_path) == count
    calm = Stuck()
    calm.free.set()
    assert deliver(Outbox(tmp_path / OUTBOX), calm) and calm.events == sweep_events()


# --- a sweep's outbox ----------------------------------------------------------------------------


@pytest.fixture
def left(
    client: MlflowClient, make_experiment: Callable[[], str], tmp_path: Path
) -> tuple[SweepFolder, MlflowWriter]:
    """A sweep whose record has only begun to reach the store; the rest is in its outbox."""
    folder = create_sweep_folder(tmp_path, "ae")
    folder.spec.write_text("name: ae\n")
    uri = str(client.tracking_uri)
    state = SweepState(uuid.uuid4().hex, uri, make_experiment())
    folder.write_state(state)
    writer = MlflowWriter(client, state.experiment_id, "ae", state.key, folder.path)
    writer.start_sweep("name: ae\n", {}, dataset(), "autoencoder")
    outbox_with(folder.path / OUTBOX, sweep_events()).close()
    return folder, writer


def test_sync_delivers_what_was_left_and_finishes_the_sweep(
    left: tuple[SweepFolder, MlflowWriter],
    client: MlflowClient,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder, writer = left
    command = ["sync", "ae", "--dir", str(folder.root)]
    with folder.locked():
        assert main(command) == 2
    assert "another process is running this sweep" in capsys.readouterr().err
    assert main(command) == 0
    assert f"ae: {len(sweep_events())} records delivered" in capsys.readouterr().out
    run = client.get_run(writer.sweep_run)
    assert (run.info.status, run.info.end_time) == ("FINISHED", 99_000)
    assert run.data.tags["mlflow.note.content"] == "**note**"
    assert main(command) == 0
    assert "nothing waits" in capsys.readouterr().out
    assert not (folder.path / OUTBOX).exists()


def test_a_session_that_goes_on_delivers_first_what_an_earlier_one_left(
    left: tuple[SweepFolder, MlflowWriter], client: MlflowClient
) -> None:
    folder, _ = left
    state = folder.read_state()
    writer = MlflowWriter(client, state.experiment_id, "ae", state.key, folder.path)
    prepared: Any = SimpleNamespace(
        objective=LOSS,
        spec=parse_spec({"dataset": "digits"}, folder.path),
        dataset=dataset(),
        task=load_task("autoencoder"),
    )
    begin_record(writer, prepared, folder, state)
    assert waiting_records(folder.path) == 0
    stored = state_of(
        client, state.experiment_id
    )  # the earlier end of the sweep has not come after the new beginning
    assert {name: run["status"] for name, run in stored.items() if "fold" not in name} == {
        "ae": "RUNNING",
        "trial 0000": "FINISHED",
        "trial 0001": "FAILED",
    }


def test_sync_of_a_store_that_is_away_keeps_everything(
    left: tuple[SweepFolder, MlflowWriter], capsys: pytest.CaptureFixture[str]
) -> None:
    folder, _ = left
    folder.write_state(SweepState("key", "http://127.0.0.1:9", "1"))
    assert main(["sync", "ae", "--dir", str(folder.root)]) == 2
    assert "does not answer" in capsys.readouterr().err
    assert waiting_records(folder.path) == len(sweep_events())


def test_the_end_of_a_recording_says_how_the_rest_is_delivered(
    left: tuple[SweepFolder, MlflowWriter],
    monkeypatch: pytest.MonkeyPatch,
    said: Callable[[], list[str]],
) -> None:
    folder, writer = left
    monkeypatch.setattr(Delivery, "_run", lambda self: None)
    monkeypatch.setattr(Delivery, "drain", lambda self, seconds=None: False)
    with recording(folder, writer) as kept:
        kept.close(Outcome.COMPLETED, {}, "")
    [line] = said()
    assert f"{len(sweep_events()) + 1} records wait" in line
    assert f"sync ae --dir {folder.root}`" in line
    assert waiting_records(folder.path) == len(sweep_events()) + 1
