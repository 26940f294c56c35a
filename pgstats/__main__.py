"""`python -m pgstats`, and the entry point of the `pgstats` script."""

from pgstats.cli import main

if __name__ == "__main__":
    main()
