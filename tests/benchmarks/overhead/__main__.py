"""``python -m tests.benchmarks.overhead``."""

from tests.benchmarks.overhead.run import main

if __name__ == "__main__":
    main()
