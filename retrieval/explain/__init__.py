"""Why an answer is what it is: shares of similarities and margins, attributions, tables."""

from typing import Final

SHARES: Final = "shares"
"""The method that splits similarities and margins exactly."""
SIMILARITY: Final = "similarity"
"""The target that every system has: to the gallery photograph."""
