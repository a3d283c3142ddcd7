"""Every example in a docstring runs, and every public name has a docstring."""

import doctest
import importlib
import inspect
import os
import pkgutil
import subprocess
import sys
from importlib.util import find_spec
from types import ModuleType

import pytest

import postresponse

MODULES = sorted(
    module.name
    for module in pkgutil.walk_packages(postresponse.__path__, "postresponse.")
    if not module.name.endswith("__main__")
)


DJANGO = {
    "postresponse.integrations.django.applications",
    "postresponse.integrations.django.rendering",
    "postresponse.unit_of_work.django",
}
"""Django wants its settings before anything else: these are looked into in a process of their own."""

INSTALLED = {
    "postresponse.integrations.django.checks",
    "postresponse.integrations.django.options",
    "postresponse.integrations.django_outbox.admin",
    "postresponse.integrations.django_outbox.models",
}
"""Django wants these in INSTALLED_APPS, or its settings: the tests of Django look into them."""
if find_spec("django.tasks") is None:  # before Django 6
    INSTALLED.add("postresponse.integrations.django_tasks")


@pytest.fixture(params=[name for name in MODULES if name not in INSTALLED])
def module(request: pytest.FixtureRequest) -> ModuleType:
    """Each module of the package in turn."""
    return importlib.import_module(request.param)


@pytest.mark.parametrize("name", [name for name in MODULES if name not in DJANGO | INSTALLED])
def test_the_examples_of_a_module_run(name: str) -> None:
    assert doctest.testmod(importlib.import_module(name)).failed == 0


@pytest.mark.parametrize("name", sorted(DJANGO))
def test_the_examples_of_a_module_run_with_django(name: str) -> None:
    program = (
        f"import doctest, {name} as module; ran = doctest.testmod(module); assert ran.attempted and not ran.failed"
    )
    environment = {**os.environ, "DJANGO_SETTINGS_MODULE": "django.conf.global_settings"}
    ran = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stdout + ran.stderr


def test_what_a_module_offers_has_a_docstring(module: ModuleType) -> None:
    assert (module.__doc__ or "").strip()
    for name in getattr(module, "__all__", ()):
        offered = getattr(module, name)
        if inspect.isclass(offered) or inspect.isfunction(offered):
            assert inspect.getdoc(offered), f"{name} has no docstring"


def test_there_are_examples_to_run() -> None:
    found = [
        test.name
        for name in MODULES
        if name not in DJANGO | INSTALLED
        for test in doctest.DocTestFinder().find(importlib.import_module(name))
        if test.examples
    ]
    assert len(found) >= 6
