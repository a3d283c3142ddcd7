"""Which protocol an application speaks."""

from typing import Any, Literal

from postresponse.core.settings import check_application
from postresponse.exceptions import WrongApplication

__all__ = ["protocol_of"]


def protocol_of(app: Any) -> Literal["asgi", "wsgi"]:
    """Tell whether *app* is called with a scope, or with an environ.

    Raises:
        WrongApplication: It is called with neither.
    """
    try:
        check_application(app, 3)
    except WrongApplication as error:
        try:
            check_application(app, 2)
        except WrongApplication:
            raise WrongApplication(f"app: expected an ASGI or a WSGI application, found {app!r}") from error
        return "wsgi"
    return "asgi"
