"""A trial's numbers depend on the sweep's seed and its parameters: not on the cluster, the order,
or the scheduler."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import psutil

from tests.helpers.sweeps import Swept


def test_the_same_sweep_again_a_trial_at_a_time_has_the_same_numbers_exactly(
    quick: Swept, one_by_one: Swept
) -> None:
    assert one_by_one.status == 0, one_by_one.err
    assert one_by_one.record.params == quick.record.params
    assert len(quick.record.numbers) > 200
    assert one_by_one.record.numbers == quick.record.numbers
    assert one_by_one.result["best"] == quick.result["best"]
    ends = [
        (run.info.start_time, run.info.end_time)
        for _, run in sorted(one_by_one.record.trials.items())
    ]
    assert all(end <= start for (_, end), (start, _) in pairwise(ends))


def test_stopping_changes_no_number_that_both_have(quick: Swept, stopping: Swept) -> None:
    assert stopping.status == 0, stopping.err
    assert stopping.record.params == quick.record.params
    ours, full = stopping.record.numbers, quick.record.numbers
    assert set(ours) < set(full)
    assert ours == {key: full[key] for key in ours}


def test_a_hopeless_trial_is_given_up_and_never_wins(stopping: Swept) -> None:
    record, result = stopping.record, stopping.result
    assert result["trials"]["pruned"] >= 1 and result["trials"]["failed"] == 0
    assert result["trials"]["completed"] + result["trials"]["pruned"] == 4
    hopeless = record.trials[1]
    assert hopeless.data.params["lr"] == "1e-06"
    assert (hopeless.info.status, hopeless.data.tags["foldrace.pruned_at"]) == (
        "KILLED",
        "pruned at epoch 1 of 3 folds",
    )
    assert {record.folds[1, fold].info.status for fold in range(3)} == {"KILLED"}
    assert record.history(hopeless, "epoch") == {3: 1}
    statuses = [run.info.status for run in record.trials.values()]
    assert statuses.count("KILLED") == result["trials"]["pruned"]
    assert record.trials[result["best"]["trial"]].info.status == "FINISHED"
    trained = sum(max(record.history(run, "epoch")) for run in record.trials.values())
    assert result["fold_epochs"] == trained < 4 * 3 * 3


def test_a_cluster_that_was_there_is_left_as_it_was(cluster: Any, one_by_one: Swept) -> None:
    """Its processes go on."""
    assert one_by_one.status == 0, one_by_one.err
    processes = [
        info.process.pid for kind in cluster.head_node.all_processes.values() for info in kind
    ]
    assert processes
    assert all(
        psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
        for pid in processes
    )
    assert not cluster.head_node.dead_processes()
