"""The client of these tests, which is the package's own for tests."""

from postresponse.testing.client import Client, Connection, ConnectionEnded, Fields, Head, Response, Sink

__all__ = ["Client", "Connection", "ConnectionEnded", "Fields", "Head", "Response", "Sink"]
