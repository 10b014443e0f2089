"""Photographs to descriptors."""
