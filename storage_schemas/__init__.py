"""What is on disk: stores, schemas, commit records, leases and seals; opens runs as xarray."""

from storage_schemas.gather import gather_scores
from storage_schemas.run import open_run

__all__ = ["gather_scores", "open_run"]
