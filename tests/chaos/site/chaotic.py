"""The shop of tests/apps with faulty views: `chaotic:application`.

A deploy changes the module `release`: code that raises there is a broken deploy.
"""

import os

import release  # noqa: F401 (a broken release must fail the boot)

os.environ["DJANGO_SETTINGS_MODULE"] = "chaotic_settings"

from shop.wsgi import application  # noqa: F401 (after the settings are named)
