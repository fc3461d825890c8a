"""python -m qexport, the form that torchrun starts."""

from qexport.cli import main

if __name__ == "__main__":
    main()
