"""Its settings; how postresponse is installed the environment says: "outermost", by its "entry", or "both"."""

import os
from importlib.util import find_spec
from pathlib import Path
from typing import Any

HERE = __package__ or ""
INSTALLED = os.environ.get("SHOP_INSTALLED", "outermost")

SECRET_KEY = "no secret"
DEBUG = bool(os.environ.get("SHOP_DEBUG"))
ALLOWED_HOSTS = ["*"]
USE_TZ = True
ROOT_URLCONF = f"{HERE}.urls"
WSGI_APPLICATION = f"{HERE}.wsgi.application"
STATIC_URL = "static/"
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]
DATABASES = {
    "default": {
        "ENGINE": "django.db.backends.sqlite3",
        "NAME": Path.cwd() / "shop.sqlite3",
        "OPTIONS": {"timeout": 10, "init_command": "PRAGMA journal_mode=wal"},
    }
}
INSTALLED_APPS = [
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "postresponse.integrations.django",
    "postresponse.integrations.django_outbox",
    "tests.unit_of_work.django_project",
]
MIDDLEWARE = [
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    f"{HERE}.dooming.dooming",
]
if INSTALLED in ("entry", "both"):
    MIDDLEWARE.insert(0, "postresponse.integrations.django.PostResponseMiddleware")
TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
            ]
        },
    }
]
POSTRESPONSE: dict[str, Any] = {
    "UNIT_OF_WORK": "default",
    "ON_FINISHED": f"{HERE}.telling:on_finished",
    "OBSERVERS": [f"{HERE}.telling:Routes"],
}
if find_spec("django.tasks"):
    TASKS = {
        "default": {"BACKEND": "postresponse.integrations.django_tasks.OutboxBackend", "QUEUES": ["default", "mail"]},
        "after": {"BACKEND": "postresponse.integrations.django_tasks.AfterResponseBackend"},
    }
