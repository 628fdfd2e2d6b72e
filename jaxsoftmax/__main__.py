"""`python -m jaxsoftmax`: the same as the command `jaxsoftmax`."""

from jaxsoftmax.cli import command

if __name__ == "__main__":
    command()
