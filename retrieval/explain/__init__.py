"""Why an answer is what it is: shares of similarities and margins, attributions, tables."""
