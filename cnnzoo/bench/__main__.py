"""`python -m cnnzoo.bench MODEL IMAGES FOUND.json`: one point of `scaling`, in a process of its own."""

import sys

from ._scaling import main

main(sys.argv[1:])
