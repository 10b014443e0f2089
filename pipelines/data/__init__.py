"""Photographs on the way in."""
