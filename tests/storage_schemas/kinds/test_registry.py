"""Every kind says in full what it holds."""

import pytest

from storage_schemas.kinds.coordinates import window_coords
from storage_schemas.kinds.registry import KINDS
from storage_schemas.kinds.schema import ArraySchema, flag_names, flag_value, flags

ARRAYS = {
    f"{kind.name}-{name}": (name, array)
    for kind in KINDS.values()
    for form in kind.forms
    for name, array in form.arrays.items()
    if not name.endswith(tuple(f"{i:03d}" for i in range(1, 1000)))
}


@pytest.mark.parametrize(("name", "array"), ARRAYS.values(), ids=ARRAYS)
def test_every_array_has_a_name_for_people_and_a_unit(name: str, array: ArraySchema) -> None:
    assert len(array.long_name) > len("cka")
    assert array.long_name != name.replace("_", " ")
    assert array.units in ("1", "s", "mm")


IN_SECONDS = {"latency", "onset", "lag", "timing_score", "timing_mean", "timing_interval"}
COUNTS = {
    "significant_voxels",
    "significant_sensors",
    "dropped_replicates",
    "tied_voxels",
    "region_voxels",
    "region_selected",
    "edge_peaks",
}


@pytest.mark.parametrize(("name", "array"), ARRAYS.values(), ids=ARRAYS)
def test_units_fit_what_is_measured(name: str, array: ArraySchema) -> None:
    expected = "s" if name in IN_SECONDS else {"region_position": "mm"}.get(name, "1")
    assert array.units == expected
    assert ("number of" in array.long_name) == (name in COUNTS)


def test_units_divide_a_kind_along_a_dimension_of_its_arrays() -> None:
    for kind in KINDS.values():
        for form in kind.forms:
            dims = {dim for array in form.arrays.values() for dim in array.dims}
            assert kind.unit_dim is None or kind.unit_dim in dims, kind.name


def test_flags_translate_between_values_and_names() -> None:
    attrs = flags(("ok", "zero", "constant"))
    assert attrs == {"flag_values": [0, 1, 2], "flag_meanings": "ok zero constant"}
    assert flag_names(attrs) == {0: "ok", 1: "zero", 2: "constant"}
    assert flag_value(attrs, "constant") == 2
    with pytest.raises(KeyError):
        flag_value(attrs, "identical")


def test_flags_of_another_order_keep_their_names() -> None:
    """A store is read by what it says itself, not by the order that the code has today."""
    attrs = {"flag_values": [3, 1], "flag_meanings": "ok zero"}
    assert flag_names(attrs) == {3: "ok", 1: "zero"}
    assert flag_value(attrs, "ok") == 3


def test_entries_without_a_window_have_no_name_and_no_edges() -> None:
    coords = window_coords("target", [("early", 0.1, 0.2), None], "target_")
    assert coords["target_window"][1].tolist() == ["early", ""]
    assert coords["target_window_start"][1].tolist()[0] == 0.1
    assert str(coords["target_window_stop"][1].tolist()) == "[0.2, nan]"
