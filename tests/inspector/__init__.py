"""The inspector: what it keeps, who may look, what it answers, and its page in a real browser."""
