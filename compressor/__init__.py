"""Networks, teachers, runtimes, data and training: the foundation of recipes, export and the demo."""

from __future__ import annotations

import os
import sys

# By default OpenMP's threads spin for milliseconds while they wait for one another: if another program occupies a core,
# every layer then waits for a whole time slice (docs/use/speed.md). OpenMP reads the variable when torch is loaded.
if "torch" not in sys.modules and "OMP_WAIT_POLICY" not in os.environ:
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")
