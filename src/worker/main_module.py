"""What a worker of rgun has as its main module (`__main__.__file__`). Running it does nothing.

A worker is started from text, not from a file. Libraries take a main module without a file for an interactive
session (python-dotenv then looks for `.env` in the wrong directory), and multiprocessing runs the main module's
file again in each process that it spawns.
"""
