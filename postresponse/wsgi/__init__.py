"""The WSGI side (PEP 3333): calls to events, actions to calls; nothing else."""

from postresponse.wsgi.middleware import PostResponseMiddleware

__all__ = ["PostResponseMiddleware"]
