"""What a study could tell: designs of real files and of shapes, and what cannot be decided."""

from pathlib import Path

import numpy as np
import pytest

from gradenc_core.identify.assumed import Assumed
from gradenc_core.identify.fmri import FmriDesign
from gradenc_core.identify.meg import MegDesign
from hpc.forecast.identifiable import STEP_MM, Identifiable, find_identifiable
from hpc.forecast.shapes import StudyShapes
from hpc.study.study import StudyError, load_study

ENOUGH = "encoding.permutations=99"
LAYERS = 'layers=["layer1.0", "layer2.0", "layer3.0", "layer4.0"]'


def found(study: Path, *changes: str) -> list[Identifiable]:
    return find_identifiable(load_study(study, [ENOUGH, *changes]), None, Assumed(ceiling=0.4))


def test_designs_have_the_sizes_of_the_study(small_study: Path) -> None:
    fmri, meg = (one.design for one in found(small_study))
    assert isinstance(fmri, FmriDesign)
    assert isinstance(meg, MegDesign)
    for design in (fmri, meg):
        assert (design.n_subjects, design.n_stimuli, design.n_folds) == (1, 96, 4)
        assert len(design.depth) == 5
        assert design.level == 0.025
        assert design.assumed.ceiling == 0.4
        assert design.n_columns > 5
        assert not design.unrecorded
    assert len(np.unique(fmri.region)) == 8
    seed = fmri.position[fmri.region == fmri.region[fmri.position.argmin()]]
    assert len(seed) == 2  # both hemispheres
    assert np.ptp(fmri.position) > 0
    assert list(meg.times) == pytest.approx([0.05, 0.15, 0.25, 0.35, 0.45, 0.55, 0.65, 0.75, 0.85])


def test_images_without_recordings_and_controls_count(small_study: Path) -> None:
    (fmri, _) = found(small_study, "unrecorded_images={generated: 40}")
    assert fmri.design is not None
    assert fmri.design.unrecorded
    assert found(small_study, "models[0].control=true") == []


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (["encoding.permutations=38"], ["give encoding.permutations 39 or more"] * 2),
        ([LAYERS], ["", "4 layers, and a slope of latency over depth needs 5"]),
        (["comparisons.search_window=[0.0, 0.2]"], ["", "fewer than 3 of encoding.windows"]),
        (
            ["responses[0].rois=[V1, V2, V3, V4, LO]"],
            ["5 regions: their order cannot be tested over regions (it needs 6); a test", ""],
        ),
    ],
    ids=["permutations", "layers", "windows", "regions"],
)
def test_what_cannot_be_decided_is_said(
    small_study: Path, changes: list[str], said: list[str]
) -> None:
    for one, words in zip(found(small_study, *changes), said, strict=True):
        assert words in one.refusal
        assert (one.design is None) == bool(words)


def test_a_study_without_gradients_is_refused(small_study: Path) -> None:
    with pytest.raises(StudyError, match="verdicts are about gradients: add gradient"):
        found(small_study, "signals=[forward]", "objectives=[]")


def test_regions_of_shapes_stand_in_a_row(small_study: Path) -> None:
    recorded = {"modality": "fmri", "subjects": 3, "stimuli": 500, "voxels": 64, "regions": 8}
    shapes = StudyShapes.model_validate({"responses": [recorded]})
    (one,) = find_identifiable(load_study(small_study, [ENOUGH]), shapes, Assumed())
    assert isinstance(one.design, FmriDesign)
    assert (one.design.n_subjects, one.design.n_stimuli, one.design.level) == (3, 500, 0.05)
    assert list(np.unique(one.design.position)) == list(STEP_MM * np.arange(8))
