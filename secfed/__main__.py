"""`python -m secfed` is the command `secfed`."""

from secfed.cli.__main__ import main

if __name__ == "__main__":
    main()
