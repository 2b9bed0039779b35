"""Images without recordings: values of the key, what is left out, what plan says."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from gradenc_core.signals.bank import generated_images
from gradenc_core.signals.sizes import BANK_SEED, UNRECORDED_SEED
from gradenc_core.stimuli.generated import write_images
from gradenc_core.stimuli.images import read_manifest
from hpc.config.profile import load_profile
from hpc.demo import SEED
from hpc.forecast.forecast import forecast
from hpc.study.resolve import resolve
from hpc.study.resolved import Resolved
from hpc.study.study import Study, StudyError, load_study
from hpc.study.unrecorded import unrecorded_note


@pytest.fixture
def data(small_data: dict, tmp_path: Path) -> dict:
    return small_data | {"responses": small_data["responses"][:1]}


def studied(data: dict, folder: Path, **changes: Any) -> Study:
    (folder / "study.yaml").write_text(yaml.safe_dump(data | changes))
    return load_study(folder / "study.yaml")


def test_a_study_has_none_unless_it_names_them(data: dict, tmp_path: Path) -> None:
    study = studied(data, tmp_path)
    assert study.unrecorded_images is None
    resolved, _ = resolve(study)
    assert resolved.unrecorded is None
    assert unrecorded_note(resolved) == ""


@pytest.mark.parametrize(
    "given", [3, "", [], {}, {"generated": 0}, {"generated": 2.5}, {"generated": True}]
)
def test_values_that_name_no_images_are_refused(data: dict, tmp_path: Path, given: Any) -> None:
    with pytest.raises(StudyError, match=r"unrecorded_images: given .*; accepted: a folder of im"):
        studied(data, tmp_path, unrecorded_images=given)


def test_a_folder_that_is_not_there_is_refused(data: dict, tmp_path: Path) -> None:
    study = studied(data, tmp_path, unrecorded_images="nowhere")
    with pytest.raises(
        StudyError, match=r"unrecorded_images: given \"nowhere\"; accepted: a folde"
    ):
        resolve(study)


def test_images_that_were_shown_are_left_out_whatever_they_are_called(
    data: dict, tmp_path: Path
) -> None:
    names = write_images(tmp_path / "others", 3, 32, seed=9)
    stimuli = Path(data["stimuli"])
    for number, name in enumerate(read_manifest(stimuli).ids[:5]):
        shutil.copy(stimuli / name, tmp_path / "others" / f"again-{number}.png")
    resolved, subjects = resolve(studied(data, tmp_path, unrecorded_images="others"))
    found = resolved.unrecorded
    assert found is not None
    seen = {name for s in subjects for name in s.description.stimuli}
    never_shown = 5 - len(seen & set(read_manifest(stimuli).ids[:5]))
    assert len(found.ids) == len(names) + never_shown
    assert set(names) <= set(found.ids)
    assert found.n_recorded == 5 - never_shown > 0
    content = dict(zip(resolved.stimulus_ids, resolved.stimulus_digests, strict=True))
    assert not set(found.digests) & {content[name] for name in seen}
    assert unrecorded_note(resolved) == (
        f"Images without recordings: {len(found.ids)} of {tmp_path / 'others'}. "
        f"{found.n_recorded} others there are left out, because a subject was shown them."
    )
    assert Resolved.model_validate_json(resolved.model_dump_json()) == resolved


def test_a_folder_of_nothing_but_shown_images_is_refused(data: dict, tmp_path: Path) -> None:
    resolved, subjects = resolve(studied(data, tmp_path))
    (tmp_path / "same").mkdir()
    for name in subjects[0].description.stimuli[:4]:
        shutil.copy(Path(resolved.stimuli) / name, tmp_path / "same")
    study = studied(data, tmp_path, unrecorded_images="same")
    with pytest.raises(StudyError, match=r"images that no subject was shown; all 4 of .* were"):
        resolve(study)


def test_drawn_images_are_none_of_the_banks_or_the_demos(data: dict, tmp_path: Path) -> None:
    assert len({BANK_SEED, UNRECORDED_SEED, SEED}) == 3
    resolved, _ = resolve(studied(data, tmp_path, unrecorded_images={"generated": 20}))
    found = resolved.unrecorded
    assert found is not None
    assert found.generated is not None
    assert len(set(found.ids)) == len(set(found.digests)) == 20
    bank = {image.tobytes() for _, image in generated_images(20)}
    how = found.generated
    drawn = {image.tobytes() for _, image in generated_images(20, how.size, how.seed)}
    assert not bank & drawn
    assert unrecorded_note(resolved) == "Images without recordings: 20 that are drawn."


def test_true_classes_beside_images_that_have_none_are_refused(data: dict, tmp_path: Path) -> None:
    names = read_manifest(Path(data["stimuli"])).ids
    rows = ["stimulus,label", *(f"{name},1" for name in names)]
    (tmp_path / "labels.csv").write_text("\n".join(rows))
    study = studied(data, tmp_path, labels="labels.csv", unrecorded_images={"generated": 20})
    with pytest.raises(
        StudyError, match=r"labels: given .*; accepted with unrecorded_images: null"
    ):
        resolve(study)


def test_plan_counts_them_and_says_so(data: dict, tmp_path: Path) -> None:
    profile = load_profile("local")
    without = {s.stage: s for s in forecast(studied(data, tmp_path), profile)}
    study = studied(data, tmp_path, unrecorded_images={"generated": 40})
    stages = {s.stage: s for s in forecast(study, profile)}
    assert stages["extract"].note == "Images without recordings: 40 that are drawn."
    n_sources, n_shards = 3, 2
    assert stages["extract"].stores == without["extract"].stores + n_sources
    assert stages["extract"].units == without["extract"].units + n_sources * n_shards
