"""Checked by mypy in strict mode and by pyright, never run: what users write has to be accepted, and mistakes refused."""
