"""`python -m consistentid` is the command line."""

from consistentid.cli import main

main()
