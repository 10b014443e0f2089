"""From a list of photographs to predictions."""
