"""The id under which a request is found in a tracing system."""

import re
import sys
from typing import Any, Final

__all__ = ["trace_id_of"]

_TRACEPARENT: Final = re.compile(r"[0-9a-f]{2}-(?!0{32})([0-9a-f]{32})-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")
"""W3C Trace Context, section 3.2.2; an id of zeros is none."""


def trace_id_of(scope: Any) -> str | None:
    """Return the trace id that a request came with, else that of OpenTelemetry's current span, else None."""
    found = _TRACEPARENT.match(_traceparent(scope))
    if found is not None:
        return found[1]
    opentelemetry: Any = sys.modules.get("opentelemetry.trace")  # whoever made a span has loaded it
    if opentelemetry is None:
        return None
    context = opentelemetry.get_current_span().get_span_context()
    return f"{context.trace_id:032x}" if context.is_valid else None


def _traceparent(scope: Any) -> str:
    if "REQUEST_METHOD" in scope:
        return str(scope.get("HTTP_TRACEPARENT", ""))
    return next((value.decode("latin-1") for name, value in scope["headers"] if name == b"traceparent"), "")
