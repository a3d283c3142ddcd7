"""For WSGI servers; `SHOP_INSTALLED=entry` has Django's own application."""

import os

os.environ["DJANGO_SETTINGS_MODULE"] = f"{__package__}.settings"

if os.environ.get("SHOP_INSTALLED") == "entry":
    from django.core.wsgi import get_wsgi_application
else:
    from postresponse.integrations.django import get_wsgi_application

application = get_wsgi_application()
