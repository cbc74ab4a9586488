"""Storage: a run on disk as OME-Zarr 0.5."""
