"""The main module (`__main__.__file__`) of a worker of rgun. Does nothing when it is run.

A worker is started from text, not from a file. Libraries take a main module without a file for an interactive
session (python-dotenv then searches `.env` in the wrong directory), and multiprocessing runs the file of the
main module again in each process that it spawns.
"""
