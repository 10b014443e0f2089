"""From many local features to one descriptor of the photograph."""
