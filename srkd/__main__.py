"""Run `srkd`, as its command and `python -m srkd` do."""

import sys
from typing import NoReturn


def main() -> NoReturn:
    """Run the command line; Ctrl-C before it has been imported is one line, too."""
    try:
        from srkd.cli.main import main as run

        run()
    except KeyboardInterrupt:
        sys.stderr.write("srkd: interrupted\n")
        sys.exit(130)


if __name__ == "__main__":
    main()
