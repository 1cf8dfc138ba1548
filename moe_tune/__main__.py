"""python -m moe_tune."""

from moe_tune.cli.main import entry

if __name__ == "__main__":
    entry()
