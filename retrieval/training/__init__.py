"""Fitting a network to a gallery."""
