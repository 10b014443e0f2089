"""From a table row to pixels: image tables, fetching, decoding."""
