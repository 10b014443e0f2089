"""Lists in, tables out: each row once."""
