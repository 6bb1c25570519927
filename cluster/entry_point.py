"""A submitted sweep on the head: ``python -m foldrace.cluster.entry_point DIR DIGEST SPEC …``.

The arguments: the folder of sweeps, the digest of the code that was sent, the sweep file, and the
options of ``foldrace sweep``.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from foldrace.cluster.submit import keep_code


def main(arguments: list[str]) -> None:
    """Becomes ``foldrace sweep`` in the folder of the code, on storage that outlives the job."""
    directory, digest, spec, *options = arguments
    os.chdir(keep_code(Path.cwd(), Path(directory), digest))
    command = [sys.executable, "-m", "foldrace", "sweep", spec, "--address", "auto", *options]
    os.execv(sys.executable, command)


if __name__ == "__main__":
    main(sys.argv[1:])
