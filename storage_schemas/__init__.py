"""What is on disk: stores, schemas, commit records, leases and seals; opens runs as xarray."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from storage_schemas.results.gather import gather_scores
    from storage_schemas.results.open import open_run

__all__ = ["gather_scores", "open_run"]


def __getattr__(name: str) -> Any:
    """Import what needs xarray, which is slow to import, when it is asked for."""
    if name == "gather_scores":
        from storage_schemas.results.gather import gather_scores

        return gather_scores
    if name == "open_run":
        from storage_schemas.results.open import open_run

        return open_run
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
