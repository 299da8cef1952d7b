"""The capture, activations.zarr: plan, rows, reader, writer."""
