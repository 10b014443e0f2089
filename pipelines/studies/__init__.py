"""Systems compared, and what their parts add."""
