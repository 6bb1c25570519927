"""``python -m tests.benchmarks.study``."""

from tests.benchmarks.study.run import main

if __name__ == "__main__":
    main()
