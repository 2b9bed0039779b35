"""The study file: what it accepts, and every refusal with its message."""

import json
import subprocess
import sys
from importlib.resources import files
from pathlib import Path
from typing import get_args

import pytest
import torch
import torchvision
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel

from gradenc_core.models.model import Library, Weights, load_model
from gradenc_core.models.tokens import Tokens
from gradenc_core.signals.objectives import OBJECTIVES
from gradenc_core.signals.sizes import Scale
from hpc.config.yaml import dump_yaml, parse_yaml
from hpc.study import study as study_module
from hpc.study.encoding import Alphas, Encoding, Windows
from hpc.study.networks import layers_of, resolve_networks
from hpc.study.plugins import find_losses
from hpc.study.readers import BidsResponses, Ceiling, EpochsResponses
from hpc.study.recordings import find_subjects
from hpc.study.resolve import refuse, resolve, resolve_sources
from hpc.study.study import (
    Comparisons,
    Depths,
    Extraction,
    Model,
    Study,
    StudyError,
    dump_study,
    load_study,
)

SECTIONS = (
    Study,
    Model,
    Depths,
    BidsResponses,
    Ceiling,
    EpochsResponses,
    Encoding,
    Alphas,
    Windows,
    Comparisons,
    Extraction,
)
MODEL = (
    "{name: a, library: torchvision, architecture: resnet18, weights: untrained, image_size: 64}"
)
BY_DEFAULT = ("dino", "random", "mismatched_dino")
SMALLEST = {
    "name": "demo",
    "stimuli": "stimuli",
    "models": f"[{MODEL}]",
    "responses": "[{reader: bids, path: bids}]",
}


def write(tmp_path, **keys):
    """Write the smallest study with keys replaced (None: left out) or added; values are YAML."""
    lines = [f"{key}: {value}" for key, value in (SMALLEST | keys).items() if value is not None]
    path = tmp_path / "study.yaml"
    path.write_text("\n".join(lines) + "\n")
    return path


def model_entry(**keys):
    """Return YAML of a list with one model."""
    return json.dumps([parse_yaml(MODEL) | keys])


def refusal(path, overrides=()):
    with pytest.raises(StudyError) as caught:
        load_study(path, overrides)
    return str(caught.value)


def keys_of(message):
    return [line.split(": ")[1] for line in message.splitlines()]


# What is accepted


def test_defaults_are_those_of_the_science(tmp_path):
    study = load_study(write(tmp_path))
    assert (study.seed, study.layers, study.tokens) == (0, "blocks", "mean")
    assert (study.signals, study.objectives) == (("forward", "gradient"), BY_DEFAULT)
    assert (study.gradient_scale, study.projection) == ("unit", 1024)
    encoding = study.encoding
    assert (encoding.folds, encoding.blocks, encoding.alpha_choice) == (5, 20, "kfold")
    assert encoding.alphas == Alphas(low=1.0, high=1e8, count=25)
    assert encoding.band_ratios == (0, 0.01, 0.1, 1, 10, 100)
    assert study.comparisons.ladders["ventral"][-1] == "FFA"
    assert study.comparisons.ladders["dorsal"][3:5] == ("V3A/B", "IPS0")
    assert study.extraction.stimuli_per_shard == 512
    assert study.responses[0].subjects is None
    assert study.folder == tmp_path


def test_random_stands_for_the_first_of_its_draws(tmp_path):
    study = load_study(write(tmp_path, random_draws=2))
    sources = resolve_sources(study, find_losses(study, []), None)
    names = ("dino", "random.0", "random.1", "mismatched_dino")
    assert list(sources) == [f"gradient:{name}" for name in names]
    with pytest.raises(StudyError, match="random_draws: given 11"):
        load_study(write(tmp_path, random_draws=11))


def test_forward_alone_needs_no_objectives(tmp_path):
    assert load_study(write(tmp_path, signals="[forward]")).objectives == ()


def test_the_template_loads_as_it_stands_and_shows_every_key(tmp_path):
    template = files("hpc.study").joinpath("template.yaml").read_text()
    path = tmp_path / "study.yaml"
    path.write_text(template)
    study = load_study(path)
    assert {r.reader for r in study.responses} == {"bids", "epochs"}
    for section in SECTIONS:
        for key in section.model_fields:
            assert f"{key}:" in template, key


def test_the_defaults_that_the_template_shows_are_the_defaults(tmp_path):
    template = files("hpc.study").joinpath("template.yaml").read_text()
    path = tmp_path / "study.yaml"
    path.write_text(template)
    study, smallest = load_study(path), load_study(write(tmp_path))
    for name in set(Study.model_fields) - {*SMALLEST}:
        assert getattr(study, name) == getattr(smallest, name), name
    uncommented = "\n".join(
        line.replace("# ", "", 1) if line.lstrip().startswith("# ") and ": " in line else line
        for line in template.splitlines()[4:]
    )
    path.write_text(uncommented)
    assert load_study(path).model_dump() == study.model_dump()


def test_every_key_is_described():
    for section in SECTIONS:
        for key, field in section.model_fields.items():
            assert field.description, key


def test_the_choices_are_those_of_the_science_package():
    def choices(section, key):
        return get_args(section.model_fields[key].annotation)

    assert choices(Model, "library") == get_args(Library)
    assert choices(Model, "weights") == get_args(Weights)
    assert choices(Study, "tokens") == get_args(Tokens)
    assert choices(Study, "gradient_scale") == get_args(Scale)
    assert set(study_module.OBJECTIVES) == set(OBJECTIVES)


def test_numbers_written_with_an_exponent_are_numbers(tmp_path):
    study = load_study(write(tmp_path, encoding="{alphas: {low: 1e-2, high: 1e6}}"))
    assert (study.encoding.alphas.low, study.encoding.alphas.high) == (0.01, 1e6)


def test_help_needs_no_slow_import():
    code = (
        "import sys, hpc.study.study, hpc.config.overrides, hpc.config.profile; "
        "print(sorted({'torch', 'sklearn', 'mne', 'xarray', 'numpy'} & set(sys.modules)))"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


names = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,8}", fullmatch=True)
texts = st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cs"]), min_size=1)
regions = st.lists(texts, min_size=2, max_size=4, unique=True)
depths = st.fixed_dictionaries(
    {"depths": st.integers(1, 30) | st.lists(st.floats(1e-9, 1) | st.just(1), min_size=1)}
)


@st.composite
def studies(draw):
    low = draw(st.floats(1e-6, 1e6))
    ratios = draw(st.lists(st.floats(1e-6, 1e6), min_size=1, max_size=4, unique=True))
    model = st.fixed_dictionaries(
        {
            "name": names,
            "library": st.sampled_from(get_args(Library)),
            "architecture": texts,
            "seed": st.integers(0, 2**40),
            "image_size": st.none() | st.integers(1, 512),
            "control": st.booleans(),
            "weights": st.just("shuffled"),
            "checkpoint": st.none() | texts,
        }
    )
    return {
        "name": draw(names),
        "stimuli": draw(texts),
        "models": draw(st.lists(model, min_size=1, max_size=3, unique_by=lambda m: m["name"])),
        "layers": draw(st.just("blocks") | st.lists(texts, min_size=1, max_size=3) | depths),
        "objectives": draw(st.permutations(sorted(OBJECTIVES)).map(lambda names: names[:2])),
        "responses": [
            {"reader": "bids", "path": draw(texts), "rois": draw(st.none() | regions)},
            {"reader": "epochs", "path": draw(texts), "tmin": draw(st.none() | st.floats(-1, 0))},
        ],
        "encoding": {"alphas": {"low": low, "high": 2 * low}, "band_ratios": [0, *ratios]},
        "comparisons": {"ladders": draw(st.dictionaries(texts, regions, min_size=1, max_size=2))},
    }


@settings(max_examples=40)
@given(studies())
def test_dump_then_load_is_the_identity(tmp_path_factory, data):
    path = tmp_path_factory.getbasetemp() / "round-trip.yaml"
    study = Study.model_validate(data)
    path.write_text(dump_study(study), encoding="utf-8")
    loaded = load_study(path)
    assert loaded.model_dump() == study.model_dump()
    assert dump_study(loaded) == dump_study(study)
    assert Study.model_validate(study.model_dump(mode="json")).model_dump() == study.model_dump()


def test_the_dump_names_every_key(tmp_path):
    dumped = parse_yaml(dump_study(load_study(write(tmp_path))))
    assert list(dumped) == list(Study.model_fields)


# What is refused

REFUSED = {
    "name": [
        ("name", "a/b", '"a/b"; accepted: the study\'s name: letters, digits, `_`, `.` and `-`'),
        ("name", "3", "3; accepted: a text; put quotes around what YAML reads as something else"),
    ],
    "seed": [
        ("seed", '"5"', '"5"; accepted: a whole number'),
        ("seed", "5.0", "5.0; accepted: a whole number"),
        ("seed", "true", "true; accepted: a whole number"),
        ("seed", "-1", "-1; accepted: greater than or equal to 0"),
    ],
    "stimuli": [("stimuli", '""', '""; accepted: at least 1 character')],
    "models": [
        ("models", "[]", "[]; accepted: at least 1 entries"),
        ("models", MODEL, "accepted: a list"),
        ("models[0]", "[resnet18]", '"resnet18"; accepted: a mapping (key: value)'),
        ("models", f"[{MODEL}, {MODEL}]", "accepted: every entry of name once (twice: a)"),
    ],
    "layers": [
        ("layers", "block", '"block"; accepted: blocks, a list of names of modules and globs, or'),
        ("layers", "block", "did you mean `blocks`?"),
        ("layers", "[]", "[]; accepted: blocks, a list"),
        ("layers", "[layer1, 2]", '["layer1", 2]; accepted: blocks, a list'),
        ("layers", "{depths: 0}", '{"depths": 0}; accepted: blocks, a list'),
        ("layers", "{depths: [0.5, 1.5]}", "N how many or a list of depths in (0, 1]"),
        ("layers", "{depths: true}", '{"depths": true}; accepted: blocks'),
        ("layers", "{depth: 3}", '{"depth": 3}; accepted: blocks'),
    ],
    "tokens": [
        (
            "tokens",
            "patchs",
            '"patchs"; accepted: cls, registers, patches, mean, all; did you mean `patches`?',
        ),
        ("tokens", "[mean]", '["mean"]; accepted: cls, registers, patches, mean, all'),
    ],
    "signals": [
        ("signals", "[gradient]", "accepted: a list with forward, which every comparison needs"),
        ("signals", "forward", '"forward"; accepted: a list'),
        (
            "signals[1]",
            "[forward, gradients]",
            "forward, gradient, module:function; did you mean `gradient`?",
        ),
        (
            "signals",
            "[forward, forward]",
            "accepted: every entry of the list once (twice: forward)",
        ),
    ],
    "objectives": [
        (
            "objectives[0]",
            "[enery]",
            '"enery"; accepted: classification, contrastive, dino, energy, masked, random, '
            "mismatched_contrastive, mismatched_dino, mismatched_energy, module:function; "
            "did you mean `energy`?",
        ),
        (
            "objectives",
            "[]",
            "[]; accepted: at least one objective, because signals has gradient",
        ),
        ("objectives", "[energy, energy]", "(twice: energy)"),
        ("objectives", "[energy, 'mine:energy']", "(twice: energy)"),
        ("objectives[0]", "['mine:']", "accepted: classification, "),
    ],
    "gradient_scale": [("gradient_scale", "norm", "accepted: unit, raw, norm_only")],
    "projection": [
        ("projection", "1e3", "1000.0; accepted: a whole number"),
        ("projection", "0", "0; accepted: greater than or equal to 1"),
        ("projection", "nothing", '"nothing"; accepted: a whole number, or none'),
    ],
    "responses": [
        ("responses", "[]", "[]; accepted: at least 1 entries"),
        ("responses[0].reader", "[{path: x}]", "missing; accepted: bids, epochs"),
        (
            "responses[0].reader",
            "[{reader: bid, path: x}]",
            '"bid"; accepted: bids, epochs; did you mean `bids`?',
        ),
        ("responses[0].path", "[{reader: bids}]", "missing; accepted: folder of the recordings"),
        (
            "responses[0].tmin",
            "[{reader: bids, path: x, tmin: 0}]",
            "unknown key, given 0; accepted: ceiling, normalise, path, reader, rois, sessions, "
            "subjects",
        ),
        (
            "responses[0].normalise",
            "[{reader: bids, path: x, normalise: sesion}]",
            "accepted: session, none; did you mean `session`?",
        ),
        ("responses[0].subjects", "[{reader: bids, path: x, subjects: []}]", "at least 1 entries"),
        (
            "responses[0].subjects[0]",
            "[{reader: bids, path: x, subjects: [1]}]",
            "1; accepted: a text",
        ),
        ("responses[0].subjects", "[{reader: bids, path: x, subjects: [a, a]}]", "(twice: a)"),
        (
            "responses[0].tmax",
            "[{reader: epochs, path: x, tmin: 0.5, tmax: 0.2}]",
            "0.2; accepted: more than tmin (0.5 s)",
        ),
        (
            "responses",
            "[{reader: bids, path: x, subjects: [s]}, {reader: bids, path: y, subjects: [s]}]",
            "accepted: every entry of bids once (twice: s)",
        ),
    ],
    "encoding": [
        ("encoding", "null", "null; accepted: a mapping (key: value)"),
        ("encoding.folds", "{folds: 2}", "2; accepted: greater than or equal to 3"),
        ("encoding.fold", "{fold: 4}", "did you mean `folds`?"),
        ("encoding.alphas.high", "{alphas: {low: 2, high: 2}}", "2; accepted: more than low (2)"),
        ("encoding.alphas.high", "{alphas: {low: 1e9}}", "100000000.0; accepted: more than low"),
        ("encoding.alphas.low", "{alphas: {low: 0}}", "0; accepted: greater than 0"),
        ("encoding.alphas.low", "{alphas: {low: .nan}}", "NaN; accepted: a finite number"),
        ("encoding.alphas.count", "{alphas: {count: 1}}", "accepted: greater than or equal to 2"),
        ("encoding.alphas", "{alphas: [1, 10]}", "[1, 10]; accepted: a mapping (key: value)"),
        ("encoding.alpha_choice", "{alpha_choice: kfolds}", "did you mean `kfold`?"),
        ("encoding.band_ratios", "{band_ratios: [0.1, 1]}", "[0.1, 1]; accepted: a list with 0"),
        ("encoding.band_ratios", "{band_ratios: [0]}", "accepted: at least 2 entries"),
        (
            "encoding.band_ratios[1]",
            "{band_ratios: [0, -1]}",
            "-1; accepted: greater than or equal",
        ),
        ("encoding.band_ratios", "{band_ratios: [0, 1, 1.0]}", "(twice: 1.0)"),
        ("encoding.windows.stop", "{windows: {start: 1, stop: 1}}", "1; accepted: more than start"),
        ("encoding.windows.width", "{windows: {width: 2}}", "accepted: at most stop - start (1 s)"),
        ("encoding.windows.step", "{windows: {step: 0}}", "0; accepted: greater than 0"),
        ("encoding.windows.widht", "{windows: {start: 0, widht: 1}}", "did you mean `width`?"),
        (
            "encoding.windows",
            "{windows: {late: [0.1, 0.3], early: [0.05, 0.12]}}",
            "accepted: windows that do not overlap (early and late do)",
        ),
        (
            "encoding.windows.early",
            "{windows: {early: [0.2, 0.1]}}",
            "[0.2, 0.1]; accepted: [start, stop] with start < stop (s)",
        ),
        ("encoding.windows.early", "{windows: {early: 0.2}}", "0.2; accepted: a list"),
        ("encoding.meg_targets", "{meg_targets: window}", "did you mean `windows`?"),
        ("encoding.bootstrap", "{bootstrap: 0}", "0; accepted: greater than or equal to 1"),
    ],
    "comparisons": [
        ("comparisons.search_window", "{search_window: [1, 0]}", "[start, stop] with start < stop"),
        ("comparisons.search_window[1]", "{search_window: [1]}", "missing; accepted: where MEG"),
        (
            "comparisons.ladders",
            "{ladders: {a: [V1, V2, V1]}}",
            "every entry of a once (twice: V1)",
        ),
        ("comparisons.ladders", "{ladders: {a: [V1]}}", "accepted: at least two regions in a"),
        ("comparisons.ladders", "{ladders: {}}", "{}; accepted: at least 1 entries"),
        ("comparisons.significance", "{significance: 5}", "5; accepted: less than 1"),
        ("comparisons.smallest_effect", "{smallest_effect: 0}", "0; accepted: greater than 0"),
    ],
    "extraction": [("extraction.stimuli_per_shard", "{stimuli_per_shard: 0}", "0; accepted: ")],
    "store_root": [("store_root", "3", "3; accepted: a text")],
    "stimulus": [
        (
            "stimulus",
            "x",
            'unknown key, given "x"; accepted: bank, categories, comparisons, dino_head',
        )
    ],
}


@pytest.mark.parametrize(
    ("key", "place", "value", "line"),
    [(key, *case) for key, cases in REFUSED.items() for case in cases],
)
def test_refusals(tmp_path, key, place, value, line):
    path = write(tmp_path, **{key: value})
    message = refusal(path)
    assert message.startswith(f"{path}: {place}: ")
    assert line in message
    assert "\n" not in message


@pytest.mark.parametrize(
    ("entry", "place", "line"),
    [
        ("control: 1.0", "models[0].control", "given 1.0; accepted: true or false"),
        ("control: yes", "models[0].control", 'given "yes"; accepted: true or false'),
        ("weights: pretraned", "models[0].weights", "did you mean `pretrained`?"),
        ("weights: checkpoint", "models[0].checkpoint", "accepted: a .safetensors, .pt or .pth"),
        (
            "checkpoint: w.pt",
            "models[0].checkpoint",
            "only where weights is checkpoint or shuffled",
        ),
        (
            "library: tim",
            "models[0].library",
            "accepted: torchvision, timm, transformers; did you mean `timm`?",
        ),
        ("image_size: 0", "models[0].image_size", "given 0; accepted: greater than or equal to 1"),
        ("archtecture: x", "models[0].archtecture", "did you mean `architecture`?"),
        ("name: a b", "models[0].name", 'given "a b"; accepted: its name in labels and results'),
    ],
)
def test_refusals_in_a_model(tmp_path, entry, place, line):
    path = write(tmp_path, models=model_entry(**parse_yaml(entry)))
    message = refusal(path)
    assert message.startswith(f"{path}: {place}: ")
    assert line in message


@pytest.mark.parametrize("key", ["name", "stimuli", "models", "responses"])
def test_needed_keys(tmp_path, key):
    path = write(tmp_path, **{key: None})
    assert refusal(path).startswith(f"{path}: {key}: missing; accepted: ")


def test_objectives_without_gradient(tmp_path):
    path = write(tmp_path, signals="[forward]", objectives="[energy]")
    assert refusal(path) == (
        f'{path}: objectives: given ["energy"]; accepted: no objectives, or gradient among the '
        "signals"
    )


def test_every_problem_is_listed_once_and_nothing_else(tmp_path):
    path = write(
        tmp_path,
        name=None,
        seed='"0"',
        models="[{name: a, library: tim, architecture: x}, {name: b, library: timm}]",
        signals="[forwards]",
        responses="[{reader: bids, path: x, tmin: 0}, {reader: meg, path: x}]",
        encoding="{folds: 1, windows: {stop: -1}, alphas: {low: 3, high: 2}, block: 3}",
        comparisons="{ladders: {a: [V1, V1]}}",
        nonsense="1",
    )
    message = refusal(path, ["extraction.shard=1", "models[7].seed=1", "seed=true"])
    lines = [line.removeprefix(f"{path}: ") for line in message.splitlines()]
    assert sorted(line.split(": ")[0] for line in lines) == sorted(
        [
            "name",
            "models[0].library",
            "models[1].architecture",
            "signals[0]",
            "responses[0].tmin",
            "responses[1].reader",
            "encoding.folds",
            "encoding.windows.stop",
            "encoding.alphas.high",
            "encoding.block",
            "comparisons.ladders",
            "nonsense",
            "--set extraction.shard=1",
            "--set models[7].seed=1",
            "--set seed=true",
        ]
    )


def test_overrides_are_named_where_they_are_the_problem(tmp_path):
    path = write(tmp_path)
    assert refusal(path, ["encodng.folds=4"]).startswith(
        "--set encodng.folds=4: encodng: unknown key"
    )
    assert "did you mean `encoding`?" in refusal(path, ["encodng.folds=4"])
    assert refusal(path, ["encoding.folds=two"]) == (
        '--set encoding.folds=two: encoding.folds: given "two"; accepted: a whole number'
    )


@settings(max_examples=40)
@given(st.integers(3, 50), st.integers(2, 30), st.floats(1.5, 1e9))
def test_overrides_are_the_same_as_writing_the_file(tmp_path_factory, folds, count, high):
    path = tmp_path_factory.getbasetemp() / "overridden.yaml"
    base = {key: parse_yaml(value) for key, value in SMALLEST.items()}
    path.write_text(dump_yaml(base))
    overrides = [f"encoding.folds={folds}", f"encoding.alphas.count={count}"]
    overridden = load_study(path, [*overrides, f"encoding.alphas.high={high!r}", "models.0.seed=9"])
    base["models"][0]["seed"] = 9
    base["encoding"] = {"folds": folds, "alphas": {"count": count, "high": high}}
    path.write_text(dump_yaml(base))
    assert overridden == load_study(path)


def test_an_override_inside_a_default_keeps_the_rest_of_it(tmp_path):
    study = load_study(write(tmp_path), ["comparisons.ladders.dorsal=[V1, V3A/B]"])
    assert set(study.comparisons.ladders) == {"ventral", "dorsal"}


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("a:\n\tb: 1\n", ":2:1: YAML does not allow tabs for indentation: use spaces"),
        ("a:\n  b: 1\n\tc: 2\n", ":3:1: YAML does not allow tabs for indentation: use spaces"),
        ("a:\n  - b\n \t- c\n", "YAML does not allow tabs for indentation: use spaces"),
        ("a: [1, 2\nb: 3\n", ":2:2: "),
        ("a: 1\nb: 2\na: 3\n", ":3:1: the key `a` is given twice, first in line 1"),
        ("a: {b: 1, b: 2}\n", ":1:11: the key `b` is given twice"),
        ("", ": given null; accepted: keys and values (`gradenc init`)"),
        ("- a\n", ': given ["a"]; accepted: keys and values'),
        ("a: \x00\n", ": not a text of YAML: "),
    ],
)
def test_syntax_errors_say_where(tmp_path, text, line):
    path = tmp_path / "study.yaml"
    path.write_text(text)
    assert refusal(path).startswith(f"{path}{line}" if line[0] == ":" else f"{path}:")
    assert line in refusal(path)


def test_a_missing_file_suggests_another(tmp_path):
    write(tmp_path)
    message = refusal(tmp_path / "study.yml")
    assert "study.yml: no such file; accepted: a study file" in message
    assert message.endswith("did you mean `study.yaml`?")


def test_models_are_frozen_and_refuse_unknown_keys():
    for section in SECTIONS:
        assert issubclass(section, BaseModel)
        assert section.model_config["frozen"]
        assert section.model_config["extra"] == "forbid"


# Paths


@pytest.fixture
def study_folder(tmp_path):
    (tmp_path / "stimuli").mkdir()
    for subject in ("sub-01", "sub-02"):
        (tmp_path / "bids" / subject / "ses-01").mkdir(parents=True)
    (tmp_path / "meg").mkdir()
    (tmp_path / "meg" / "sub-03-epo.fif").touch()
    return tmp_path


BOTH = "[{{reader: bids, path: bids{}}}, {{reader: epochs, path: meg{}}}]"


def paths_refusal(path):
    with pytest.raises(StudyError) as caught:
        resolve(load_study(path))
    return str(caught.value)


def check_paths(study):
    problems = []
    find_subjects(study, problems)
    refuse(study, problems)


def test_paths_that_are_there_pass(study_folder, monkeypatch):
    responses = BOTH.format(", subjects: [sub-01, sub-02]", ", subjects: [sub-03]")
    check_paths(load_study(write(study_folder, responses=responses)))
    write(study_folder, responses=BOTH.format("", ""))
    monkeypatch.chdir(study_folder)
    study = load_study(Path("study.yaml"))
    monkeypatch.chdir("/")
    check_paths(study)


def test_every_missing_path_is_listed(study_folder):
    path = write(
        study_folder,
        stimuli="stimulus",
        responses="[{reader: bids, path: bid}, {reader: epochs, path: m}]",
    )
    lines = paths_refusal(path).splitlines()
    assert keys_of("\n".join(lines)) == ["stimuli", "responses[0].path", "responses[1].path"]
    assert lines[0] == (
        f'{path}: stimuli: given "stimulus"; accepted: a folder of images; there is none at '
        f"{study_folder / 'stimulus'}; did you mean `stimuli`?"
    )
    assert lines[1].endswith("did you mean `bids`?")


def test_missing_subjects_are_listed_with_those_that_are_there(study_folder):
    responses = BOTH.format(", subjects: [sub-01, sub-2]", ", subjects: [sub-01]")
    path = write(study_folder, responses=responses)
    assert paths_refusal(path).splitlines() == [
        f'{path}: responses[0].subjects[1]: given "sub-2"; accepted: sub-01, sub-02; '
        "did you mean `sub-02`?",
        f'{path}: responses[1].subjects[0]: given "sub-01"; accepted: sub-03; '
        "did you mean `sub-03`?",
    ]


def test_a_folder_without_subjects_is_refused(study_folder):
    path = write(study_folder, responses="[{reader: epochs, path: bids}]")
    message = paths_refusal(path)
    assert message.startswith(f'{path}: responses[0].path: given "bids"; ')
    assert "holds no" in message


# Models


def check_models(study):
    problems = []
    losses = find_losses(study, problems)
    resolve_networks(study, losses, None, problems)
    refuse(study, problems)


def models_refusal(path):
    with pytest.raises(StudyError) as caught:
        check_models(load_study(path))
    return str(caught.value)


HEADLESS = {"library": "timm", "architecture": "vit_small_patch16_dinov3", "image_size": 64}
VIT = {"library": "timm", "architecture": "vit_tiny_patch16_224", "image_size": 64}


@pytest.mark.parametrize("keys", [{}, VIT, {"architecture": "swin_t"}])
def test_models_that_can_run_pass(tmp_path, keys):
    check_models(
        load_study(write(tmp_path, models=model_entry(**keys), objectives="[classification]"))
    )


def test_a_transformer_has_class_tokens(tmp_path):
    check_models(load_study(write(tmp_path, models=model_entry(**VIT), tokens="cls")))


def test_unknown_architecture(tmp_path):
    path = write(tmp_path, models=model_entry(architecture="resnet81"))
    message = models_refusal(path)
    assert message.startswith(f'{path}: models[0].architecture: given "resnet81"; torchvision has')
    assert "did you mean resnet18" in message


@pytest.mark.parametrize(
    "keys",
    [{"architecture": "vit_b_16"}, HEADLESS, {"architecture": "maxvit_t"}],
)
def test_an_image_size_that_the_network_cannot_take(tmp_path, keys):
    path = write(tmp_path, models=model_entry(**keys | {"image_size": 100}))
    message = models_refusal(path)
    assert message.startswith(f"{path}: models[0].image_size: given 100; image_size does not fit")


def test_a_pretrained_transformer_has_its_own_image_size(tmp_path):
    keys = {"architecture": "vit_b_16", "weights": "pretrained", "image_size": 64}
    message = models_refusal(write(tmp_path, models=model_entry(**keys)))
    assert "models[0].image_size: given 64; " in message
    assert "takes 224 only" in message


def test_layers_that_do_not_exist_are_all_listed(tmp_path):
    path = write(tmp_path, layers='["layer1.?", layer9, "stage*"]')
    lines = models_refusal(path).splitlines()
    assert keys_of("\n".join(lines)) == ["layers[1]", "layers[2]"]
    assert 'given "layer9"; model a: resnet18 has no layer' in lines[0]
    assert "did you mean layer" in lines[0]


def test_depths_are_those_of_blocks(tmp_path):
    study = load_study(write(tmp_path, layers="{depths: [0.5, 1]}"))
    check_models(study)
    assert study.layers == Depths(depths=(0.5, 1))
    resnet = load_model("torchvision", "resnet18", "untrained", 0, 64)
    assert layers_of(study.layers, resnet) == (("layer2.1", 0.5), ("layer4.1", 1.0))
    assert layers_of(Depths(depths=22), resnet) == layers_of("blocks", resnet)


def test_a_checkpoint_that_is_not_there_or_does_not_fit(tmp_path):
    keys = {"weights": "checkpoint", "checkpoint": "w.pt"}
    path = write(tmp_path, models=model_entry(**keys))
    message = models_refusal(path)
    assert message == (
        f'{path}: models[0].checkpoint: given "w.pt"; there is no checkpoint {tmp_path / "w.pt"}; '
        "give the path of a file of weights"
    )
    torch.save(torchvision.models.resnet34().state_dict(), tmp_path / "w.pt")
    message = models_refusal(path)
    assert 'models[0].checkpoint: given "w.pt"; the checkpoint' in message
    assert "does not fit ResNet (unexpected: layer1.2.bn1.bias" in message
    torch.save(torchvision.models.resnet18().state_dict(), tmp_path / "w.pt")
    check_models(load_study(path))


def test_a_convolutional_network_has_no_class_token(tmp_path):
    path = write(tmp_path, tokens="cls")
    message = models_refusal(path)
    assert message.startswith(f'{path}: tokens: given "cls"; model a: ')
    assert "\n" not in message


def test_a_model_without_head_has_no_classification(tmp_path):
    path = write(tmp_path, models=model_entry(**HEADLESS), objectives="[energy, classification]")
    assert models_refusal(path) == (
        f'{path}: objectives[1]: given "classification"; accepted for model a '
        "(vit_small_patch16_dinov3): dino, contrastive, masked, energy, random, mismatched_dino, "
        "mismatched_contrastive, mismatched_energy"
    )


def test_problems_of_all_models_are_listed(tmp_path):
    models = f"[{MODEL}, {{name: b, library: timm, architecture: nope, weights: untrained}}]"
    path = write(tmp_path, models=models, tokens="registers")
    assert keys_of(models_refusal(path)) == ["tokens", "models[1].architecture"]
