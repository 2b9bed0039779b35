"""YAML as users write it: version 1.2's core schema, read with refusals that say where.

It has fewer traps than the version 1.1 that PyYAML reads by default: `1e8` is a number, `no` and
`010` are strings, and a key given twice is refused.
"""

import re
from pathlib import Path
from typing import Any

import yaml
from yaml.constructor import ConstructorError

from gradenc_core.spelling import did_you_mean
from hpc.config.phrases import given

_INTEGER = re.compile(r"[-+]?(0|[1-9][0-9]*)$")
_FLOAT = re.compile(
    r"([-+]?([0-9]+\.[0-9]*|\.[0-9]+)([eE][-+]?[0-9]+)?|[-+]?[0-9]+[eE][-+]?[0-9]+"
    r"|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN))$"
)


class _Loader(yaml.SafeLoader):
    """Reads YAML 1.2's core schema and refuses duplicate keys."""

    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        lines: dict[str, int] = {}
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                continue
            if key.value in lines:
                problem = f"the key `{key.value}` is given twice, first in line {lines[key.value]}"
                raise ConstructorError(None, None, problem, key.start_mark)
            lines[key.value] = key.start_mark.line + 1
        return super().construct_mapping(node, deep)


class _Dumper(yaml.SafeDumper):
    """Quotes every string that YAML 1.1 or 1.2 would read as something else."""


for _tag, _pattern, _first in (
    ("null", re.compile(r"(~|null|Null|NULL|)$"), ["~", "n", "N", ""]),
    ("bool", re.compile(r"(true|True|TRUE|false|False|FALSE)$"), list("tTfF")),
    ("int", _INTEGER, list("-+0123456789")),
    ("float", _FLOAT, list("-+.0123456789")),
):
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", _pattern, _first)
_Dumper.add_implicit_resolver("tag:yaml.org,2002:float", _FLOAT, list("-+.0123456789"))


def parse_yaml(text: str | bytes) -> Any:
    """Return the plain data of a YAML text; raises `yaml.YAMLError`."""
    return yaml.load(text, Loader=_Loader)


def read_yaml(path: Path) -> dict[str, object]:
    """Return the mapping that a YAML file holds.

    Raises
    ------
    ValueError
        There is no such file, it is not YAML (with line and column), or it is no mapping.
    """
    if not path.exists():
        near = did_you_mean(path.name, [p.name for p in path.parent.glob("*.y*ml")])
        raise ValueError(f"{path}: no such file; accepted: a study file (`gradenc init`){near}")
    text = path.read_bytes()
    try:
        data = parse_yaml(text)
    except yaml.MarkedYAMLError as error:
        raise ValueError(f"{path}:{_syntax_problem(text, error)}") from error
    except yaml.YAMLError as error:
        raise ValueError(f"{path}: not a text of YAML: {error}") from error
    if not isinstance(data, dict):
        raise ValueError(f"{path}: given {given(data)}; accepted: keys and values (`gradenc init`)")
    return data


def _syntax_problem(text: bytes, error: yaml.MarkedYAMLError) -> str:
    mark = error.problem_mark
    if mark is None:
        return f" {error}"
    line = "".join(text.decode(errors="replace").splitlines()[mark.line : mark.line + 1])
    tab = "\t" in line[: len(line) - len(line.lstrip())]
    problem = "YAML does not allow tabs for indentation: use spaces" if tab else error.problem
    return f"{mark.line + 1}:{mark.column + 1}: {problem}"


def dump_yaml(data: Any) -> str:
    """Return YAML that `parse_yaml` reads back to the same data, keys in the order given."""
    return str(
        yaml.dump(
            data,
            Dumper=_Dumper,
            default_flow_style=None,
            sort_keys=False,
            allow_unicode=True,
            width=100,
        )
    )
