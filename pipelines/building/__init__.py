"""From labelled photographs to a run, and what changes one."""
