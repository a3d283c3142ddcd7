"""A small WSGI application with an inspector, whose outbox has a database that is away: nobody listens on port 1."""

import threading

from flask import Flask, request

from postresponse import after_response
from postresponse.inspector import Inspector
from postresponse.wsgi import PostResponseMiddleware

inspector = Inspector(outbox="postgresql+psycopg://nobody@127.0.0.1:1/shop")
app = Flask(__name__)
app.wsgi_app = PostResponseMiddleware(app.wsgi_app, inspector=inspector)  # type: ignore[method-assign]


released = threading.Event()


@app.route("/mails", methods=["POST", "DELETE"])
def mail_all() -> tuple[str, int]:
    """Start work that waits until it is released; or release it."""
    global released
    if request.method == "DELETE":
        released.set()
        released = threading.Event()
        return "", 204
    after_response(released.wait, 30, name="mail_all")
    return "", 202


@app.get("/")
def hello() -> str:
    """Answer at once."""
    after_response(len, "")
    return "hello"
