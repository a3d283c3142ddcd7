"""The inspector: one page that shows each request, when its response left, and when its unit of work committed.

For whoever develops on this machine: `PostResponseMiddleware(app, inspector=True)`, and open `/__postresponse__/`.
"""

from postresponse.inspector.findings import Finding
from postresponse.inspector.inspector import Inspector

__all__ = ["Finding", "Inspector"]
