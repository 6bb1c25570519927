"""Ray's and MLflow's log records go to a file in the sweep's folder, and nowhere else."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from foldrace.search.tune.log_file import LIBRARY_LOG, library_log


def test_records_of_the_libraries_go_to_the_file_and_not_to_the_terminal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    loggers = [logging.getLogger(name) for name in ("ray", "mlflow")]
    terminal = logging.StreamHandler()
    loggers[0].addHandler(terminal)
    before = [(logger.handlers[:], logger.level, logger.propagate) for logger in loggers]
    try:
        with library_log(tmp_path):
            logging.getLogger("ray.tune.tune").info("a trial was paused")
            logging.getLogger("mlflow").warning("a run was slow")
            logging.getLogger("ray").debug("too much")
        assert before == [
            (logger.handlers[:], logger.level, logger.propagate) for logger in loggers
        ]
    finally:
        loggers[0].removeHandler(terminal)
    first, second = (tmp_path / LIBRARY_LOG).read_text().splitlines()
    assert first.endswith("INFO ray.tune.tune: a trial was paused")
    assert second.endswith("WARNING mlflow: a run was slow")
    assert capsys.readouterr() == ("", "")


def test_there_is_no_file_without_a_record_and_a_folder_that_is_gone_disturbs_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with library_log(tmp_path):
        pass
    assert not any(tmp_path.iterdir())
    with library_log(tmp_path / "gone"):
        logging.getLogger("ray").warning("lost")
    assert capsys.readouterr() == ("", "")
