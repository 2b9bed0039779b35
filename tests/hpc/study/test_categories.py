"""Categories of real images: copies of an image, and rules of folds that go with them."""

import shutil
from pathlib import Path

import pytest

from gradenc_core.stimuli.generated import write_images
from gradenc_core.stimuli.images import Manifest, read_manifest
from hpc.study.categories import find_categories
from hpc.study.study import Study

STUDY = {
    "name": "demo",
    "stimuli": "images",
    "models": [{"name": "a", "library": "timm", "architecture": "x"}],
    "responses": [{"reader": "bids", "path": "bids"}],
}


@pytest.fixture
def manifest(tmp_path: Path) -> Manifest:
    """Read six images, of which the first has a copy that comes last by name."""
    write_images(tmp_path / "images", 6, 16, 0)
    first, *_ = sorted((tmp_path / "images").iterdir())
    shutil.copy(first, tmp_path / "images" / "zz-copy.png")
    manifest = read_manifest(tmp_path / "images")
    assert len(manifest.ids) == 6
    return manifest


def find(
    folder: Path,
    manifest: Manifest,
    rows: dict[str, str],
    rule: str = "spread_categories",
    folds: int = 3,
) -> tuple[tuple[str, ...] | None, list[str]]:
    lines = "".join(f"{name},{category}\n" for name, category in rows.items())
    (folder / "categories.csv").write_text("stimulus,category\n" + lines)
    encoding = {"fold_rule": rule, "folds": folds}
    study = Study.model_validate(STUDY | {"categories": "categories.csv", "encoding": encoding})
    study._file = folder / "study.yaml"
    problems: list[str] = []
    return find_categories(study, manifest, problems), problems


def test_one_image_in_two_categories_is_refused(tmp_path: Path, manifest: Manifest) -> None:
    rows = dict.fromkeys(manifest.ids, "cat") | {"zz-copy.png": "dog"}
    _, (problem,) = find(tmp_path, manifest, rows)
    assert problem == (
        'categories: given "categories.csv"; accepted: one category for every stimulus; '
        f"zz-copy.png is the same image as {manifest.ids[0]}, of another category"
    )


def test_a_copy_of_an_image_may_be_left_out_or_be_of_the_same_category(
    tmp_path: Path, manifest: Manifest
) -> None:
    rows = {name: f"thing-{i % 2}" for i, name in enumerate(manifest.ids)}
    expected = ("thing-0", "thing-1") * 3
    assert find(tmp_path, manifest, rows) == (expected, [])
    assert find(tmp_path, manifest, rows | {"zz-copy.png": "thing-0"}) == (expected, [])


def test_the_file_may_name_a_copy_only_beside_the_image_that_is_used(
    tmp_path: Path, manifest: Manifest
) -> None:
    rows = dict.fromkeys(manifest.ids[1:], "cat") | {"zz-copy.png": "cat"}
    _, (problem,) = find(tmp_path, manifest, rows)
    assert problem.endswith(f"1 stimuli have none, such as {manifest.ids[0]}")


@pytest.mark.parametrize(("n_categories", "refused"), [(6, False), (5, True)])
def test_kept_categories_are_two_or_more_for_every_fold(
    tmp_path: Path, manifest: Manifest, n_categories: int, refused: bool
) -> None:
    rows = {name: str(i % n_categories) for i, name in enumerate(manifest.ids)}
    _, problems = find(tmp_path, manifest, rows, "keep_categories")
    assert bool(problems) == refused
    assert all(f"categories.csv has {n_categories}" in problem for problem in problems)
    assert find(tmp_path, manifest, rows, "spread_categories")[1] == []
