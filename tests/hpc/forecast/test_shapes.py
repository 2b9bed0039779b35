from pathlib import Path

import pytest

from hpc.config.profile import load_profile
from hpc.forecast.forecast import forecast_shapes
from hpc.forecast.shapes import StudyShapes, load_shapes, shaped
from hpc.plan.subjects import Targets, encode_groups
from hpc.study.study import StudyError, load_study

FMRI = {"modality": "fmri", "subjects": 2, "stimuli": 120, "shared": 40, "voxels": 300}
MEG = {"modality": "meg", "subjects": 2, "stimuli": 150, "shared": 150, "sensors": 10}


def test_a_study_is_planned_from_sizes_alone(small_study: Path) -> None:
    shapes = StudyShapes.model_validate({"responses": [FMRI, MEG]})
    study = load_study(small_study, ["stimuli=nowhere"])
    stages = {s.stage: s for s in forecast_shapes(study, load_profile("local"), shapes)}
    n_layers, n_bands, n_groups = 5, 6, 3
    assert stages["ingest"].stores == 4
    assert stages["encode"].units == n_groups * (n_bands * n_layers + 2)
    n_features, n_stimuli = 16 + 17, 120 + 120 + 150
    assert stages["extract"].n_bytes > 4 * n_layers * n_features * n_stimuli
    assert stages["extract"].basis == "measured here"


def test_subjects_share_the_stimuli_that_all_saw(small_study: Path) -> None:
    shapes = StudyShapes.model_validate({"responses": [FMRI, MEG]})
    with shaped(load_study(small_study), shapes) as (_, resolved, subjects):
        assert {model.spec.weights for model in resolved.models} == {"untrained"}
        assert len(resolved.stimulus_ids) == 40 + 2 * 80 + 150
        first, second = (set(s.description.stimuli) for s in subjects[:2])
        assert len(first & second) == 40
        groups = encode_groups([Targets.of_subject(subject) for subject in subjects])
        assert [len(group) for group in groups] == [1, 1, 2]


def test_sizes_that_do_not_go_together_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "shapes.yaml"
    path.write_text("responses: [{modality: fmri, stimuli: 10, sensors: 3}]")
    with pytest.raises(StudyError, match="voxels, which fmri needs"):
        load_shapes(path)
    path.write_text("responses: [{modality: fmri, stimuli: 10, shared: 11, voxels: 3}]")
    with pytest.raises(StudyError, match="shared of at most stimuli"):
        load_shapes(path)
