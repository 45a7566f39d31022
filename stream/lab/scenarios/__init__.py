"""Every scenario that can be planted: what must alert, and what only looks like it (`b_...`)."""

from __future__ import annotations

from stream.lab.scenarios import batches, budgets, caches, data, inflation, leaks, lookalikes, loops, storms
from stream.lab.scene import Scenario

_FILES = (leaks, loops, storms, caches, inflation, batches, budgets, data, lookalikes)
SCENARIOS = tuple(word for file in _FILES for word in vars(file).values() if isinstance(word, Scenario))
"""In the order in which their files have them."""
