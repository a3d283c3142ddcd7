"""What Django's system checks say of this package is told by `postresponse doctor`, and of nothing else."""

import subprocess
import sys

PROGRAM = """
import django
from django.conf import settings
from django.core import checks

from postresponse.doctor.django import findings_of_django

assert list(findings_of_django()) == []  # there is no project yet
settings.configure(DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}})


def ours(app_configs, databases, **options):
    assert databases == ["default"]
    yield checks.Warning("not first", hint="put it first", obj="MIDDLEWARE", id="postresponse.W001")
    yield checks.Error("unknown key", id="postresponse.E001")
    yield checks.Info("good to know", hint="nothing", id="postresponse.I001")


def theirs(app_configs, **options):
    raise AssertionError("a check of somebody else's")


ours.__module__ = "postresponse.integrations.django.checks"
checks.register(ours, checks.Tags.database)
checks.register(theirs)
assert list(findings_of_django()) == []  # it is not set up yet
django.setup()
for finding in findings_of_django():
    print(finding.code, finding.severity, finding.where, finding.way_out, sep="; ")
"""


def test_the_checks_of_the_integration_are_run_and_no_others() -> None:
    ran = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.splitlines() == [
        "postresponse.W001; warning; MIDDLEWARE; put it first",
        "postresponse.E001; error; the settings; ",
        "postresponse.I001; info; the settings; nothing",
    ]
