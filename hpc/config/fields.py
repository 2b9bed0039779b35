"""Types of the values that studies and profiles hold, and the base of their sections."""

from collections import Counter
from collections.abc import Sequence
from typing import Annotated, Any, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationInfo

Text = Annotated[str, Field(strict=True, min_length=1)]
Name = Annotated[Text, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")]
Real = Annotated[float, Field(strict=True, allow_inf_nan=False)]
Positive = Annotated[Real, Field(gt=0)]
Seed = Annotated[int, Field(strict=True, ge=0)]
Count = Annotated[int, Field(strict=True, ge=1)]


def _forwards(window: tuple[float, float]) -> tuple[float, float]:
    if window[1] <= window[0]:
        raise ValueError("[start, stop] with start < stop (s)")
    return window


Window = Annotated[tuple[Real, Real], AfterValidator(_forwards)]


Values = TypeVar("Values", bound=Sequence[Any])


def once(values: Values, within: str = "the list") -> Values:
    """Return `values`, or refuse those that are given twice."""
    twice = sorted(str(value) for value, n in Counter(values).items() if n > 1)
    if twice:
        raise ValueError(f"every entry of {within} once (twice: {', '.join(twice)})")
    return values


def above(value: float, info: ValidationInfo, lower: str) -> float:
    """Return `value`, or refuse one that is not above the key `lower`, where that is valid."""
    if value <= info.data.get(lower, float("-inf")):
        raise ValueError(f"more than {lower} ({info.data[lower]:g})")
    return value


class Section(BaseModel):
    """Base of all parts of a file: frozen, refuses unknown keys, keys described by docstrings."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, validate_default=True, use_attribute_docstrings=True
    )
