"""Django with Channels: the common routes, and those of test_django.py."""
