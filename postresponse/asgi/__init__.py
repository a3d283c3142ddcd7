"""The ASGI side: messages to events, actions to messages; nothing else."""

from postresponse.asgi.middleware import PostResponseMiddleware

__all__ = ["PostResponseMiddleware"]
