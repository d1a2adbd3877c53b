"""`python -m temperance`."""

from temperance.cli import main

main()
