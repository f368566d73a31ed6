"""The main module (`__main__.__file__`) of a worker of rgun. Does nothing when it is run.

A worker is started from text, not from a file. If the main module has no file, libraries assume an
interactive session (python-dotenv then looks for `.env` in the wrong directory). multiprocessing
runs the main module's file again in each process that it spawns, so this file does nothing.
"""
