"""`python -m cinelora.cli` is the command line."""

from cinelora.cli.app import main

main()
