"""The shop: a small but real Django project that rgun is shown, tested and measured with."""
