"""``python -m tests.benchmarks.step``."""

from tests.benchmarks.step.run import main

if __name__ == "__main__":
    main()
