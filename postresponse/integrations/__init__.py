"""One module a framework: each imports its framework, and is imported by those who use it."""
