"""Files that are whole or not there: a run on disk."""
