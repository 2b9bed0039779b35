"""Drills: seeded noise that the units of a drill commit, a row each."""

from storage_schemas.kinds.layouts import array_layout, layout_of
from storage_schemas.kinds.schema import ArraySchema, Kind, Schema
from storage_schemas.layout import Layout, Unit

_SCHEMA = Schema(
    {"noise": ArraySchema(("unit", "value"), "float32", "seeded noise")}, attrs=("stage",)
)
DRILL = Kind("drill", 1, {1: (_SCHEMA,)}, "/drill/{stage}", unit_dim="unit")


def drill_layout(n_units: int, n_values: int) -> Layout:
    """Return noise(unit, value); a unit is one row."""
    array = array_layout(_SCHEMA, "noise", (n_units, n_values), chunks=(1, n_values))
    units = [
        Unit(i, f"row {i}", {"row": i}, {"noise": [(i, i + 1), (0, n_values)]})
        for i in range(n_units)
    ]
    return layout_of([array], {}, units)
