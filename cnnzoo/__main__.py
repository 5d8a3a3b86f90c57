"""`python -m cnnzoo` is the `cnnzoo` command."""

from .cli import main

main(prog_name="cnnzoo")
