"""Settings for Django's own runtests.py: its defaults, and a test runner that reports what became of each test."""

from test_sqlite import *  # type: ignore[import-not-found]  # noqa: F403  (beside runtests.py)

TEST_RUNNER = "transparency_runner.Runner"
