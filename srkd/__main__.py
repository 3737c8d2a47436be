"""Run `srkd` as `python -m srkd`."""

from srkd.cli.main import main

if __name__ == "__main__":
    main()
