"""Runs ``python -m parc.mini``."""

from parc.mini.make import main

main()
