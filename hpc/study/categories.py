"""The categories of a study's stimuli, over which folds are spread or which they keep together.

A study names a file of categories and a fold rule that uses it, or neither.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from gradenc_core.stimuli.images import Manifest
from gradenc_core.stimuli.label_tables import read_categories
from hpc.config.phrases import given
from hpc.study.study import Study


def find_categories(
    study: Study, manifest: Manifest, problems: list[str]
) -> tuple[str, ...] | None:
    """Return the category of each of the manifest's stimuli; None where folds use none.

    `problems` gets a line for everything that is wrong with the study's `categories` and
    `encoding.fold_rule`.
    """
    problems += _rule_problems(study)
    if study.categories is None:
        return None
    path = study.folder / study.categories
    if not path.is_file():
        problems.append(no_table("categories", study.categories, path, "stimulus,category"))
        return None
    try:
        categories = read_categories(path)
    except (ValueError, OSError) as error:
        problems.append(f"categories: given {given(study.categories)}; {error}")
        return None
    problems += misfits("categories", study.categories, "category", categories, manifest)
    problems += _count_problems(study, len(set(categories.values())))
    return tuple(categories.get(name, "") for name in manifest.ids)


def _rule_problems(study: Study) -> Iterator[str]:
    encoding = study.encoding
    if encoding.fold_rule == "stimulus" and study.categories is not None:
        yield (
            f"categories: given {given(study.categories)}; accepted: null, or set "
            "encoding.fold_rule to spread_categories or keep_categories"
        )
    if encoding.fold_rule != "stimulus" and study.categories is None:
        yield (
            f"encoding.fold_rule: given {given(encoding.fold_rule)}; accepted: stimulus, or name a "
            "CSV file of the columns stimulus,category in the key categories"
        )
    # GCV and leave-one-out leave single stimuli out, and keep the others of their category in
    # training: they would choose alpha for another generalisation than the one that is scored.
    if encoding.fold_rule == "keep_categories" and encoding.alpha_choice != "kfold":
        yield (
            f"encoding.alpha_choice: given {given(encoding.alpha_choice)}; accepted with fold_rule "
            "keep_categories: kfold, which leaves whole categories out, as the outer folds do"
        )


def _count_problems(study: Study, n_categories: int) -> Iterator[str]:
    # Two in each fold: the bootstrap draws whole categories within a fold.
    needed = 2 * study.encoding.folds
    if study.encoding.fold_rule == "keep_categories" and n_categories < needed:
        yield (
            f"encoding.folds: given {study.encoding.folds}; accepted with fold_rule "
            f"keep_categories: at most half as many as there are categories, of which "
            f"{study.categories} has {n_categories}"
        )


def no_table(key: str, named: str, path: Path, columns: str) -> str:
    """Say that a study names a table that is not there."""
    return (
        f"{key}: given {given(named)}; accepted: a CSV file of the columns {columns}; there is no "
        f"file at {path}"
    )


def misfits(
    key: str, path: str, noun: str, table: Mapping[str, Any], manifest: Manifest
) -> Iterator[str]:
    """Name stimuli that a table lacks, names of no stimulus, and one image with two values.

    Parameters
    ----------
    key, path : str
        The study's key and the file that it names.
    noun : str
        What the table gives for a stimulus, such as "class".
    table : mapping of str to any
        By stimulus; copies of an image may be left out.
    """
    first_of, accepted = manifest.first_of, f"{key}: given {given(path)}; accepted: one {noun}"
    accepted += " for every stimulus;"
    without = [name for name in manifest.ids if name not in table]
    if without:
        yield f"{accepted} {len(without)} stimuli have none, such as {without[0]}"
    unknown = sorted(set(table) - set(first_of))
    if unknown:
        yield f"{accepted} {len(unknown)} names are of no stimulus, such as {unknown[0]}"
    for name in sorted(set(table) & set(first_of)):
        if table[name] != table.get(first_of[name], table[name]):
            same = f"{name} is the same image as {first_of[name]}"
            yield f"{accepted} {same}, of another {noun}"
            return
