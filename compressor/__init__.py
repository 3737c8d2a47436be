"""Networks, teachers, runtimes, data and training: everything that recipes, export and the demo stand on."""

from __future__ import annotations

import os
import sys

# By default OpenMP's threads spin while they wait for one another: where another program occupies a core, every layer
# then waits for a whole time slice (docs/speed.md). OpenMP reads the variable when torch is loaded.
if "torch" not in sys.modules:
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
