"""The mark of tests that need a kernel that jails processes."""

from __future__ import annotations

import pytest

from compressor.base.isolation import jail_obstacle

needs_jail = pytest.mark.skipif(jail_obstacle() is not None, reason=f"no jail on {jail_obstacle()}")
