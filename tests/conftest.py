"""What holds for every test."""

from __future__ import annotations

from hypothesis import settings

# The same examples every time, however slow the machine is.
settings.register_profile("same", derandomize=True, deadline=None)
settings.load_profile("same")
