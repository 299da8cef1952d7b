"""The shapes that rows have in public data sets, as a table, and how each becomes an `Example`."""
