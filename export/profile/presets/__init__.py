"""The presets of `srkd profile`: published tables whose networks it times. Each preset is a file here and a row below.

Importing this imports no torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from export.profile.presets import csd_speed, dukd_table1
from export.profile.presets.published import PublishedTable

PRESETS: Mapping[str, PublishedTable] = MappingProxyType(
    {table.name: table for table in (dukd_table1.TABLE, csd_speed.TABLE)}
)
