"""What is on disk: Zarr stores with owners, commit records and seals, read as xarray."""
