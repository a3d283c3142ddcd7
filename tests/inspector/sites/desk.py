"""A small WSGI application with an inspector, whose outbox has a database that is away: nobody listens on port 1."""

from flask import Flask

from postresponse import after_response
from postresponse.inspector import Inspector
from postresponse.wsgi import PostResponseMiddleware

inspector = Inspector(outbox="postgresql+psycopg://nobody@127.0.0.1:1/shop")
app = Flask(__name__)
app.wsgi_app = PostResponseMiddleware(app.wsgi_app, inspector=inspector)  # type: ignore[method-assign]


@app.get("/")
def hello() -> str:
    """Answer at once."""
    after_response(len, "")
    return "hello"
