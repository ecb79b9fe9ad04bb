"""`python -m mc3.cli` and `accelerate launch -m mc3.cli` are the `mc3` command."""

from mc3.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
