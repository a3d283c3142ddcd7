"""Ports for servers of the tests' own."""

from postresponse.testing.ports import free_port

__all__ = ["free_port"]
