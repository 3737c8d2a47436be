"""With SRKD_TEST_DEVICE=sim the tests run on the simulated accelerator, in this process and in those that it starts."""

from __future__ import annotations

import os
import sys

from tests.support.commands import ROOT

if os.environ.get("SRKD_TEST_DEVICE", "").startswith("sim"):
    folder = str(ROOT / "tests" / "doubles" / "accelerator")
    sys.path.insert(0, folder)
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [folder, os.environ.get("PYTHONPATH")]))
    import simulated

    simulated.install()
