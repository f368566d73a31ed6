"""The shop of tests/apps with views that go wrong: `chaotic:application`.

Settings and URLs are its neighbours. `release` beside it is what a deploy changes: an import that raises
there is a broken deploy.
"""

import os

import release  # noqa: F401 (a broken one must break the boot)

os.environ["DJANGO_SETTINGS_MODULE"] = "chaotic_settings"

from shop.wsgi import application  # noqa: F401 (after the settings are named)
