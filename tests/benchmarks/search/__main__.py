"""``python -m tests.benchmarks.search``."""

from tests.benchmarks.search.run import main

if __name__ == "__main__":
    main()
