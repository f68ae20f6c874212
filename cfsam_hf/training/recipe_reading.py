"""Reads recipes from a YAML file, the command line, or the values of a program into the same objects."""

import argparse
import difflib
import json
import sys
from collections.abc import Sequence
from dataclasses import Field, fields
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import yaml
from transformers import HfArgumentParser
from transformers.hf_argparser import string_to_bool

from .recipe import SECTIONS, Recipe


def read_recipe_file(path: str | Path) -> dict[str, Any]:
    """The values of a YAML file by name, for [`make_recipe`].

    Raises:
        OSError: the file cannot be read.
        ValueError: it is not a YAML mapping, or holds an unknown name.
    """
    try:
        values = yaml.safe_load(Path(path).read_text(encoding="utf-8")) or {}
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not YAML: {error}") from error
    if not isinstance(values, dict):
        raise ValueError(f"{path} must hold `name: value` lines, got {values!r}.")
    known = {item.name for section in SECTIONS for item in fields(section)}
    for name in values:
        if name not in known:
            near = difflib.get_close_matches(str(name), known, n=1)
            raise ValueError(f"{path}: no recipe has {name!r}{f'; did you mean {near[0]!r}?' if near else '.'}")
    return values


def parse_recipe(arguments: Sequence[str] | None = None, description: str | None = None) -> Recipe:
    """Reads `[recipe.yaml] [--name value ...]`; the command line overrides the file.

    Args:
        arguments: default: those of this process.
        description: for `--help`.

    Raises:
        OSError: the file cannot be read.
        ValueError: the file holds an unknown name or a value of the wrong kind, or a value is outside its range.
        SystemExit: the command line has an unknown option or a value of the wrong kind.
    """
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    values = {}
    if arguments and arguments[0].endswith((".yaml", ".yml")):
        values = read_recipe_file(arguments.pop(0))
    # An abbreviation could mistake a mistyped option for another.
    parser = HfArgumentParser(SECTIONS, allow_abbrev=False, description=description)
    # Defaults do not replace what a namespace already holds.
    given, unknown = parser.parse_known_args(arguments, argparse.Namespace(**values))
    if unknown:
        parser.error(f"unknown: {' '.join(unknown)}")
    return make_recipe(**vars(given))


def make_recipe(**values: Any) -> Recipe:
    """A recipe from values by name. Values may be of the kinds that YAML gives: "3e-4" for a number, mappings for JSON
    and for data items, `None` for the default.

    Raises:
        ValueError: a name is unknown, or a value is of the wrong kind or outside its range.
    """
    known = {item.name: item for section in SECTIONS for item in fields(section)}
    if unknown := sorted(set(values) - set(known)):
        raise ValueError(f"no recipe has {', '.join(unknown)}.")
    given = {name: _converted(known[name], value) for name, value in values.items() if value is not None}
    sections: list[Any] = [
        section(**{f.name: given[f.name] for f in fields(section) if f.name in given}) for section in SECTIONS
    ]
    return Recipe(*sections)


def _converted(item: Field[Any], value: Any) -> Any:
    """Converts a value to the type of its field."""
    kind = item.type
    try:
        if get_origin(kind) is Literal:
            # YAML reads a plain `no` as a truth value.
            value = {True: "yes", False: "no"}[value] if isinstance(value, bool) else value
            if value not in get_args(kind):
                raise ValueError(f"one of {', '.join(get_args(kind))} is expected")
            return value
        if get_origin(kind) is list:
            return [_item_text(part) for part in (value if isinstance(value, list) else [value])]
        if kind is bool:
            return value if isinstance(value, bool) else string_to_bool(str(value))
        if kind in (int, float):
            if isinstance(value, bool) or (kind is int and isinstance(value, float) and value != int(value)):
                raise ValueError("a number is expected" if kind is float else "a whole number is expected")
            return kind(value)
        return json.dumps(value) if isinstance(value, dict) else str(value)
    except (ValueError, TypeError, OverflowError, argparse.ArgumentTypeError) as error:
        raise ValueError(f"{item.name} cannot be {value!r}: {error}.") from error


def _item_text(value: Any) -> str:
    """A data item that YAML writes as a mapping, in the form of the command line."""
    return ",".join(f"{key}={part}" for key, part in value.items()) if isinstance(value, dict) else str(value)
