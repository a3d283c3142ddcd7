"""Checked by mypy in strict mode and by pyright, never run: what users write is accepted, and mistakes are refused."""
