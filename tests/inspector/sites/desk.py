"""A small WSGI application with an inspector."""

from flask import Flask

from postresponse import after_response
from postresponse.wsgi import PostResponseMiddleware

app = Flask(__name__)
app.wsgi_app = PostResponseMiddleware(app.wsgi_app, inspector=True)  # type: ignore[method-assign]


@app.get("/")
def hello() -> str:
    """Answer at once."""
    after_response(len, "")
    return "hello"
