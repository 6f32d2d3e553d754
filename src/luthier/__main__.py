"""`python -m luthier` is the command."""

from luthier.cli.main import run

if __name__ == "__main__":
    run()
