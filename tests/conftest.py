"""One thread for every test, and small pictures to train on."""

from __future__ import annotations

import os

os.environ.setdefault(
    "OMP_NUM_THREADS", "1"
)  # before torch is imported; processes that tests start inherit it

from pathlib import Path
from typing import Any

import pytest


@pytest.fixture(scope="session")
def digits():
    """(300, 1, 8, 8) uint8: scikit-learn's handwritten digits. Not to be written to."""
    import torch
    from sklearn.datasets import load_digits

    return torch.from_numpy((load_digits().images[:300, None] * 15.9375).astype("uint8"))


COMPARED = ("test_comparison.py", "test_comparison_report.py", "test_reports_in_browser.py")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What takes longest first, so that no process waits for another's last one."""
    longest = ("test_faults.py", "test_outage.py", "test_promotion.py", "test_resume.py")

    def place(item: pytest.Item) -> int:
        if item.path.name in longest:
            return longest.index(item.path.name)
        return len(longest) + ("integration" not in item.path.parts)

    items.sort(key=place)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """With ``-n 2`` one process has the default tests of ``integration``, which share sweeps, and
    one the slow tests of the same comparison; all others go file by file, as a file's tests share
    what is recorded for them."""
    from xdist.scheduler import LoadScopeScheduling

    slow = config.getoption("markexpr") == "slow"
    config.option.loadscopereorder = False  # by number of tests, which says nothing of their time

    class Together(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            path = nodeid.partition("::")[0]
            if not slow and path.startswith("tests/integration/"):
                return "integration"
            return "comparison" if Path(path).name in COMPARED else path

    return Together(config, log)
