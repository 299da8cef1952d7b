"""Files and hub data sets as a stream of raw rows, parsed strictly."""
