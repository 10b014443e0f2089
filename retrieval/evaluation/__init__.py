"""How good the answers are, as the field measures it."""
