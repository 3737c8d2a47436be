"""Python imports this first where its folder is in PYTHONPATH: every process of a test then has the device."""

import simulated

simulated.install()
