"""Identity: the sha256 of a canonical JSON form, equal wherever and whenever it is computed."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

FORMAT_VERSION = 1
"""Layout of what surrounds the data: run.json, plan.json, records, seals. Not in any identity."""


def canonical_json(value: Any) -> bytes:
    """Return the one JSON form of a value: sorted keys, no spaces, ASCII, floats by ``repr``.

    Parameters
    ----------
    value : None, bool, int, float, str, or lists, tuples and string-keyed dicts of these
        Tuples are written as lists. ``1`` and ``1.0`` differ.

    Raises
    ------
    ValueError
        For NaN or an infinity, which JSON does not have.
    TypeError
        For any other type, and for keys that are not strings (JSON would merge ``1`` and ``"1"``).
    """
    if _has_other_keys(value):
        _refuse_other_keys(value, "$")
    text = json.dumps(value, sort_keys=True, allow_nan=False, separators=(",", ":"))
    return text.encode("ascii")


def digest(value: Any) -> str:
    """Return the sha256 (hex) of `canonical_json(value)`."""
    return hashlib.sha256(canonical_json(value)).hexdigest()


def identity_of(
    kind: str, schema_version: int, algorithm_version: int, spec: Mapping[str, Any]
) -> str:
    """Return the identity of a store: the digest of its kind, versions and specification."""
    return digest(
        {
            "kind": kind,
            "schema_version": schema_version,
            "algorithm_version": algorithm_version,
            "spec": dict(spec),
        }
    )


def _has_other_keys(value: Any) -> bool:
    """Find out fast: plans hold a million values, and naming the place of each takes time."""
    if isinstance(value, dict):
        return any(
            type(key) is not str or (type(item) not in _SCALARS and _has_other_keys(item))
            for key, item in value.items()
        )
    if isinstance(value, list | tuple):
        return any(type(item) not in _SCALARS and _has_other_keys(item) for item in value)
    return False


_SCALARS = {str, int, float, bool, type(None)}


def _refuse_other_keys(value: Any, where: str) -> None:
    if isinstance(value, dict):
        for key, item in value.items():
            if not isinstance(key, str):
                raise TypeError(f"key {key!r} at {where} is not a string; write it as one")
            _refuse_other_keys(item, f"{where}.{key}")
    elif isinstance(value, list | tuple):
        for position, item in enumerate(value):
            if isinstance(item, dict | list | tuple):
                _refuse_other_keys(item, f"{where}[{position}]")
