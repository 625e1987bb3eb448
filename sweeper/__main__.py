"""Lets `python -m sweeper` do what the command `sweeper` does."""

from sweeper.cli import main

if __name__ == "__main__":
    main()
