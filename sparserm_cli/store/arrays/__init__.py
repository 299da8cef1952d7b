"""Arrays on disk (Zarr, CSR, Parquet, sorted tables) with checksums and no silent fill values."""
