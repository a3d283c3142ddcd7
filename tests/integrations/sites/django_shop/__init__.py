"""A whole Django project, with the admin and an outbox, on an SQLite file in the working directory."""
