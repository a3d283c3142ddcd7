"""The inspector under WSGI. A page asks every two seconds, is answered at once, and holds no worker's thread."""

from collections.abc import Iterable
from http import HTTPStatus
from typing import Any

from postresponse.inspector.pages import Answer, Pages, as_json, asked, changes_json, mark_in, page, set_up

__all__ = ["WSGIPages"]


class WSGIPages(Pages):
    """Answers the requests for the inspector."""

    def answer(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes] | None:
        """Answer the request, or return None for one that only looks alike."""
        path = environ["PATH_INFO"].removeprefix(self.path)
        if path and path[0] != "/":
            return None
        answer = self._answer(environ, path)
        start_response(f"{answer.status} {HTTPStatus(answer.status).phrase}", answer.headers)
        return [] if environ["REQUEST_METHOD"] == "HEAD" else [answer.body]

    def _answer(self, environ: dict[str, Any], path: str) -> Answer:
        inspector = self._inspector
        wanted = asked(inspector, environ, environ["REQUEST_METHOD"], path, environ.get("QUERY_STRING", ""))
        if isinstance(wanted, Answer):
            return wanted
        if wanted.place == "outbox":
            return as_json(None if inspector.outbox is None else inspector.outbox.look(wanted.ids))
        if wanted.place == "set-up":
            return set_up(inspector)
        if wanted.place == "":
            return page()
        changes = inspector.since(mark_in(inspector, wanted.since))
        several = bool(environ.get("wsgi.multiprocess"))
        told = changes_json(inspector, changes, live="polling", several=several)
        return Answer(200, "application/json", told.encode())
