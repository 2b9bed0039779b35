"""Identities that were once given must be given again: what they name lies in labs' stores."""

import json
from pathlib import Path
from typing import Any

import pytest

from jobs import spec as specs
from storage_schemas.identity import digest
from storage_schemas.kinds.registry import KINDS

GOLDEN: list[dict[str, Any]] = json.loads(Path(__file__).with_name("golden_specs.json").read_text())
MODELS: dict[str, type[specs.Spec]] = {
    "prepared": specs.PreparedSpec,
    "bank": specs.BankSpec,
    "pca": specs.PcaSpec,
    "classes": specs.ClassesSpec,
    "scales": specs.ScalesSpec,
    "responses": specs.ResponsesSpec,
    "features": specs.FeaturesSpec,
    "stability": specs.StabilitySpec,
    "collinearity": specs.CollinearitySpec,
    "scores": specs.ScoresSpec,
    "comparisons": specs.ComparisonsSpec,
    "drill": specs.DrillSpec,
}


def test_every_kind_is_frozen() -> None:
    assert {entry["kind"] for entry in GOLDEN} == set(MODELS) == set(KINDS)
    assert len({entry["identity"] for entry in GOLDEN}) == len(GOLDEN) >= 20


@pytest.mark.parametrize("golden", GOLDEN, ids=[f"{e['kind']}-{e['identity'][:6]}" for e in GOLDEN])
def test_frozen_configurations_keep_their_identities(golden: dict[str, Any]) -> None:
    """A new field changes the canonical form, so nobody adds one without deciding about ids."""
    canonical = MODELS[golden["kind"]].model_validate(golden["spec"]).canonical()
    assert canonical == golden["spec"]
    hashed = {name: golden[name] for name in ("kind", "schema_version", "algorithm_version")}
    assert digest({**hashed, "spec": canonical}) == golden["identity"]
