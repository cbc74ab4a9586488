"""``python -m livephase``: the command line."""

from livephase.cli import main

main()
