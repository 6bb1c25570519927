"""What runs on the head: ``python -m cluster.job DIR DIGEST SPEC [OPTIONS of foldrace sweep]``."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from cluster.submit import keep_code


def main(arguments: list[str]) -> int:
    """Returns the exit status of ``foldrace``, so that a sweep with failed trials does not end as a success."""
    import foldrace

    directory, digest, spec, *options = arguments
    code = keep_code(Path.cwd(), Path(directory), digest)
    os.chdir(code)
    sys.path.insert(0, str(code))
    return foldrace.main(["sweep", spec, "--address", "auto", *options])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
