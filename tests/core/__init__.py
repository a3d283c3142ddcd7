"""The core, which needs no server, no loop and no database."""
