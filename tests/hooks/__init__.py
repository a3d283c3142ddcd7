"""When the hooks of frameworks really fire, relative to what a server is given: `python -m tests.hooks`."""
