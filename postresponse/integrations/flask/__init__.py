"""Flask: the extension `PostResponse`, units of work of Flask-SQLAlchemy's sessions, and error handlers that answer.

The last is for a response whose unit of work could not commit.
"""

from postresponse.integrations.flask.extension import PostResponse
from postresponse.integrations.flask.rendering import rendered_by
from postresponse.integrations.flask.sessions import FlaskSQLAlchemyUnitOfWork

__all__ = ["FlaskSQLAlchemyUnitOfWork", "PostResponse", "rendered_by"]
