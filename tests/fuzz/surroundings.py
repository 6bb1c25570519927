"""Commands in surroundings that nobody set up with care: environment variables, terminals and
streams drawn at random, each in a process of its own."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from pathlib import Path

__all__ = ["run_case"]

ROOT = Path(__file__).parents[2]
_NAMES = [
    "FOLDRACE_DIR",
    "FOLDRACE_DATA_DIR",
    "FOLDRACE_TRAIN_ON_CPU",
    "RAY_ADDRESS",
    "RAY_TMPDIR",
    "RAY_AUTH_MODE",
    "RAY_AUTH_TOKEN_PATH",
    "RAY_USAGE_STATS_ENABLED",
    "MLFLOW_TRACKING_URI",
    "MLFLOW_HTTP_REQUEST_TIMEOUT",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES",
    "MLFLOW_TRACKING_USERNAME",
    "MLFLOW_TRACKING_PASSWORD",
    "MLFLOW_REGISTRY_URI",
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "CUDA_VISIBLE_DEVICES",
    "NUMBA_CACHE_DIR",
    "MPLCONFIGDIR",
    "HOME",
    "TMPDIR",
    "XDG_CACHE_HOME",
    "XDG_CONFIG_HOME",
    "USER",
    "LOGNAME",
    "TERM",
    "COLUMNS",
    "LINES",
    "NO_COLOR",
    "FORCE_COLOR",
    "CLICOLOR",
    "LANG",
    "LC_ALL",
    "LC_CTYPE",
    "http_proxy",
    "https_proxy",
    "no_proxy",
]
_VALUES = (
    *("", " ", "0", "1", "-1", "abc", "1e999", "true", "x" * 5000, "é", "[red]", ":fire:", "a\nb"),
    *("/nonexistent", "/dev/null", "/proc", "~", "relative", "http://", "127.0.0.1:9", "//"),
    *("dumb", "C", "POSIX", "tr_TR.UTF-8", "GPU-0", "sqlite:///", "auto"),
)
_ENCODINGS = ("ascii", "latin-1", "utf-8", "utf-16", "ascii:strict")
_COMMANDS = (
    ("--help",),
    ("sweep", "--help"),
    ("schema",),
    ("status",),
    ("status", "nothing"),
    ("data",),
    ("data", "digits"),
    ("data", "./missing.npz"),
    ("sweep", "missing.yaml"),
    ("sweep", "wrong.yaml"),
    ("resume", "nothing"),
    ("refit", "nothing"),
    ("report", "nothing"),
    ("cluster", "check", "wrong.yaml"),
    ("simulate", "missing.npz"),
    ("ui",),
)
_WRONG = "dataset: digits\nepochs: 0\nspace: {lr: {log: [':fire:', 1]}, 'ümlaut [red]': 1}\n"
_STREAMS = ("", "", "", ">&-", "2>&-", "<&-", ">/dev/full", "2>/dev/full", ">&- 2>&-", "| head -1")
_STATUSES = (0, 1, 2, 3, 130)


def run_case(seed: int, folder: Path) -> str:
    """Runs one command; ``accepted`` if it exits with 0, else ``refused``.

    Raises:
        AssertionError: it shows a traceback, or exits with another status than documented.
    """
    draw = random.Random(seed)
    (folder / "wrong.yaml").write_text(_WRONG, encoding="utf-8")
    names = draw.sample(_NAMES, draw.randint(1, 5))
    drawn = {name: draw.choice(_VALUES) for name in names}
    if draw.random() < 0.4:
        drawn["PYTHONIOENCODING"] = draw.choice(_ENCODINGS)
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("MLFLOW_", "RAY_"))}
    environment["PYTHONPATH"] = str(ROOT)
    for name in draw.sample(["HOME", "USER", "TERM", "LANG"], draw.randint(0, 2)):
        environment.pop(name, None)
    command, streams = draw.choice(_COMMANDS), draw.choice(_STREAMS)
    pipe = "set -o pipefail; " if "|" in streams else ""
    ended = subprocess.run(
        [
            "bash",
            "-c",
            f'{pipe}"$@" {streams}',
            "bash",
            sys.executable,
            "-m",
            "foldrace",
            *command,
        ],
        cwd=folder,
        env=environment | drawn,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=60,
        check=False,
    )
    shown = ended.stdout + ended.stderr
    what = f"{' '.join(command)} {streams} {drawn}: status {ended.returncode}: {shown[-800:]!r}"
    assert b"Traceback" not in shown, what
    assert ended.returncode in _STATUSES or ("|" in streams and ended.returncode == 141), what
    return "accepted" if ended.returncode == 0 else "refused"
