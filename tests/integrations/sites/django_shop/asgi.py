"""For ASGI servers; `SHOP_INSTALLED=entry` has Django's own application."""

import os

os.environ["DJANGO_SETTINGS_MODULE"] = f"{__package__}.settings"

if os.environ.get("SHOP_INSTALLED") == "entry":
    from django.core.asgi import get_asgi_application
else:
    from postresponse.integrations.django import get_asgi_application

application = get_asgi_application()
