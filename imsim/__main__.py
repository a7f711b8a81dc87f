"""`python -m imsim` is the `imsim` command."""

from imsim.cli import main

if __name__ == "__main__":
    main()
