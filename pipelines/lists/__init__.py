"""Lists in, tables out: whatever way they are written, each row once."""
