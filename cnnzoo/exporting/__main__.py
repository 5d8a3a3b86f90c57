"""`python -m cnnzoo.exporting FILE GIVEN.npz FOUND.npz`: what an exported file makes of arrays, in a process of its own."""

import sys

from ._verify import main

main(sys.argv[1:])
