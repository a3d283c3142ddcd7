"""What the system checks of a Django project have to say of this package."""

import sys
from collections.abc import Iterator
from typing import Any, Literal

from postresponse.stack import Finding

__all__ = ["findings_of_django"]

OURS = "postresponse."


def findings_of_django() -> Iterator[Finding]:
    """Run the checks that the integration has registered, and no others; none where no project is set up here."""
    conf = sys.modules.get("django.conf")
    if conf is None or not conf.settings.configured:
        return
    from django.apps import apps
    from django.core import checks
    from django.core.checks.registry import registry

    ours = [each for each in registry.get_checks(include_deployment_checks=True) if each.__module__.startswith(OURS)]
    for check in ours if apps.ready else ():
        for found in check(app_configs=None, databases=list(conf.settings.DATABASES)):
            where = "the settings" if found.obj is None else str(found.obj)
            yield Finding(found.id or "django", _severity(checks, found.level), found.msg, where, found.hint or "")


def _severity(checks: Any, level: int) -> Literal["error", "warning", "info"]:
    return "error" if level >= checks.ERROR else "warning" if level >= checks.WARNING else "info"
