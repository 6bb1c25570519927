"""``python -m foldrace``: the command line."""

from foldrace.cli.app import main

if __name__ == "__main__":
    raise SystemExit(main())
