"""`python -m pgstats`, and the entry point of the `pgstats` script."""

import gc

# An answer of 10,000 tables is 100,000s of objects without cycles, and so is what is imported now:
# looking for some among them at every 700th takes as long as the poll itself.
gc.set_threshold(100_000, 10, 10)

from pgstats.late import keep_out  # noqa: E402

keep_out()

from pgstats.cli import main  # noqa: E402

if __name__ == "__main__":
    main()
