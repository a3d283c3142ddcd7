"""The applications that the servers serve: one ASGI (Starlette), one WSGI (Flask), with the same routes.

They run in the server's process. What happens there is written to a file, one JSON object a line, so that a test can
ask without sending a request: a server whose only worker waits inside COMMIT could not answer one.
"""
