"""A double of cuda-python: `tests/doubles/device`."""

from double_device import *  # noqa: F403
