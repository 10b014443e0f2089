"""Neighbours and descriptors to scored landmarks, and when to answer none."""
