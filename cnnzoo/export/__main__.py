"""`python -m cnnzoo.export FILE GIVEN.npz FOUND.npz`: what an exported file makes of arrays, in a process of its own."""

import sys

from . import main

main(sys.argv[1:])
