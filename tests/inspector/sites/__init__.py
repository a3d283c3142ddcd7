"""Applications with an inspector."""
