"""One module per command group: its options, one call of the library, one call of the output."""
