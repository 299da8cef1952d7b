"""Export of captures as one HDF5, .npz or .safetensors file, and import of HDF5 files."""
