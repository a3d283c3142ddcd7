"""Upstream test suites, run behind the middleware: see run.py."""
