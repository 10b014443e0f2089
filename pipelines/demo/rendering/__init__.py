"""The embedded demo's photographs: made-up landmarks, rendered with NumPy and OpenCV alone."""

from __future__ import annotations

from pipelines.demo.rendering.data_set import render_data_set, render_plain

__all__ = ["render_data_set", "render_plain"]
