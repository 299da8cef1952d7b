"""The features, features.zarr: plan, reader, writer."""
