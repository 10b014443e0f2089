"""Descriptors on disk, and their nearest neighbours."""
