"""``python -m parc.mini``."""

from parc.mini import main

main()
