"""`python -m segdistill`: the command line, as torchrun starts it."""

from segdistill.cli import main

main()
