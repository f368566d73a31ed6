"""The shop's settings with the URLs of the chaos test."""

from shop.settings import *  # noqa: F403

ROOT_URLCONF = "chaotic_urls"
