"""Run `srkd`, as its command and `python -m srkd` do; Ctrl-C while it is imported is one line, too."""

import sys

try:
    from srkd.cli.main import main
except KeyboardInterrupt:
    sys.stderr.write("srkd: interrupted\n")
    sys.exit(130)

if __name__ == "__main__":
    main()
