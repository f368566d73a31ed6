"""The shop: a small Django project for demonstrations, tests and benchmarks of rgun."""
