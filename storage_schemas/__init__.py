"""What is on disk: stores, schemas, commit records, leases and seals; opens runs as xarray."""

from typing import TYPE_CHECKING, Any

from storage_schemas.runs.run import open_run

if TYPE_CHECKING:
    from storage_schemas.results.gather import gather_scores

__all__ = ["gather_scores", "open_run"]


def __getattr__(name: str) -> Any:
    """Import what needs xarray, which is slow to import, when it is asked for."""
    if name == "gather_scores":
        from storage_schemas.results.gather import gather_scores

        return gather_scores
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
