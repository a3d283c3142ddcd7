"""What the tests of receivers share: messages to receive, and a handler that remembers them."""

from postresponse.testing.contracts.receiving import Handled, message, running

__all__ = ["Handled", "message", "running"]
