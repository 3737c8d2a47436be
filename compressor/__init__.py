"""Networks, teachers, runtimes, data and training: everything that recipes, export and the demo stand on."""

from __future__ import annotations

import os
import sys

# By default OpenMP's threads spin for milliseconds while they wait for one another: where another program occupies a
# core, every layer then waits for a whole time slice (docs/speed.md). They read the variable when torch is loaded.
if "torch" not in sys.modules and "OMP_WAIT_POLICY" not in os.environ:
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")
