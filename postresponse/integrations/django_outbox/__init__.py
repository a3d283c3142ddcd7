"""The tables of an outbox in a Django project: an application with a migration that makes them, and models to look in.

Put it into INSTALLED_APPS, run `manage.py migrate postresponse`, and enlist in views that a `DjangoUnitOfWork` is
around, or with `into=connection` in an `atomic()` block. The tables are those of an `Outbox` with the default name.
"""
