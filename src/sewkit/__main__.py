"""`python -m sewkit` is the command `sewkit`."""

from sewkit.cli.main import main

main()
