"""python -m qexport, the form that torchrun starts."""

from qexport.cli import main

main()
