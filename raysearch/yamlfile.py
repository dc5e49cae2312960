"""YAML files whose errors say where: plain values, each with its line and column.

The scalars are those of YAML 1.2's core schema (section 10.3), not PyYAML's YAML 1.1: ``1e-3`` is
a number, ``010`` is ten, only ``true`` and ``false`` are booleans, and dates stay text. Aliases,
which can blow a small file up to gigabytes, tags, duplicate keys and numbers that are not finite
are refused.
"""

import math
import re
from dataclasses import dataclass
from pathlib import Path as FilePath
from typing import Any

import yaml

from raysearch.errors import ConfigError

Path = tuple[str | int, ...]
"""Keys and list positions from the top of a document to a value."""

MAX_BYTES = 256 * 1024
MAX_DEPTH = 20

_TAG = "tag:yaml.org,2002:"
_FLOAT = r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?"
_CORE_SCHEMA = (
    ("null", re.compile(r"(?:~|null|Null|NULL|)\Z"), list("~nN") + [""]),
    ("bool", re.compile(r"(?:true|True|TRUE|false|False|FALSE)\Z"), list("tTfF")),
    ("int", re.compile(r"[-+]?[0-9]+\Z"), list("-+0123456789")),
    (
        "float",
        re.compile(rf"(?:{_FLOAT}|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))\Z"),
        list("-+.0123456789"),
    ),
)


@dataclass(frozen=True)
class Document:
    """A parsed file: ``values`` are dicts, lists and scalars; the top is a dict."""

    file: str
    text: str
    values: dict[str, Any]
    _marks: dict[Path, tuple[yaml.Mark, yaml.Mark]]

    def position(self, path: Path, key: bool = False) -> tuple[int, int]:
        """Line and column, from 1, of the value at ``path`` or of its key.

        Of the nearest enclosing value where there is none at ``path``.
        """
        path = tuple(path)
        while path not in self._marks:
            path = path[:-1]
        mark = self._marks[path][0 if key else 1]
        return mark.line + 1, mark.column + 1

    def locate(self, path: Path, key: bool = False) -> str:
        """``"line 3, column 5"``."""
        line, column = self.position(path, key)
        return f"line {line}, column {column}"

    def error(self, path: Path, message: str, key: bool = False) -> ConfigError:
        """``file.yaml:3:5: message``, to be raised."""
        line, column = self.position(path, key)
        return ConfigError(f"{self.file}:{line}:{column}: {message}")


def load_yaml(path: FilePath | str) -> Document:
    """Read ``path``. Raises `ConfigError` with file, line and column."""
    try:
        data = FilePath(path).read_bytes()
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror or error}.") from None
    if len(data) > MAX_BYTES:
        raise ConfigError(f"{path}: a YAML file holds at most {MAX_BYTES} bytes, not {len(data)}.")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise ConfigError(f"{path}:{line}: the file must be UTF-8 text.") from None
    return parse_yaml(text, str(path))


def parse_yaml(text: str, file: str) -> Document:
    """`load_yaml` of ``text``; ``file`` names it in errors."""
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
    except _Refused as error:
        raise _error_at(file, error.mark, str(error)) from None
    except yaml.MarkedYAMLError as error:
        raise _error_at(file, error.problem_mark, _syntax(error)) from None
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        message = f"the character {chr(error.character)!r} cannot stand in a YAML file."
        raise ConfigError(f"{file}:{line}: {message}") from None
    if node is None:
        raise ConfigError(f"{file}: the file is empty.")
    marks: dict[Path, tuple[yaml.Mark, yaml.Mark]] = {(): (node.start_mark, node.start_mark)}
    if not isinstance(node, yaml.MappingNode):
        message = "the file must be a mapping of name to value (name: value)."
        raise _error_at(file, node.start_mark, message)
    try:
        return Document(file, text, _construct(node, (), marks), marks)
    except _Refused as error:
        raise _error_at(file, error.mark, str(error)) from None


class _Refused(Exception):
    def __init__(self, mark: yaml.Mark, message: str):
        super().__init__(message)
        self.mark = mark


class _Loader(yaml.SafeLoader):
    yaml_implicit_resolvers: dict = {}
    _depth = 0

    def compose_node(self, parent, index):
        if self.check_event(yaml.AliasEvent):
            message = "aliases (*name) are not supported; write the value out."
            raise _Refused(self.peek_event().start_mark, message)
        if self._depth == MAX_DEPTH:
            message = f"values can be nested {MAX_DEPTH} deep at most."
            raise _Refused(self.peek_event().start_mark, message)
        self._depth += 1
        node = super().compose_node(parent, index)
        self._depth -= 1
        return node


for _name, _pattern, _first in _CORE_SCHEMA:
    _Loader.add_implicit_resolver(_TAG + _name, _pattern, _first)


def _construct(node: yaml.Node, path: Path, marks: dict) -> Any:
    """Plain values of ``node``; ``marks`` gets where each key and value begins."""
    if isinstance(node, yaml.ScalarNode):
        return _scalar(node)
    kind = "map" if isinstance(node, yaml.MappingNode) else "seq"
    if node.tag != _TAG + kind:
        raise _Refused(node.start_mark, f"the tag {node.tag!r} is not supported.")
    if kind == "seq":
        for index, item in enumerate(node.value):
            marks[*path, index] = (item.start_mark, item.start_mark)
        return [_construct(item, (*path, i), marks) for i, item in enumerate(node.value)]
    values: dict[str, Any] = {}
    for key_node, value_node in node.value:
        key = _scalar(key_node) if isinstance(key_node, yaml.ScalarNode) else None
        if not isinstance(key, str):
            raise _Refused(key_node.start_mark, "a key must be a name.")
        if key in values:
            first = marks[*path, key][0].line + 1
            message = f"the key {key!r} is given twice (first in line {first})."
            raise _Refused(key_node.start_mark, message)
        marks[*path, key] = (key_node.start_mark, value_node.start_mark)
        values[key] = _construct(value_node, (*path, key), marks)
    return values


def _scalar(node: yaml.ScalarNode) -> Any:
    tag, text = node.tag.removeprefix(_TAG), node.value
    if tag == "str":
        return text
    try:
        if tag == "null":
            return None
        if tag == "bool":
            return {"true": True, "false": False}[text.lower()]
        if tag == "int":
            return int(text)
        if tag == "float":
            value = float(re.sub(r"(?i)^([-+]?)\.(inf|nan)$", r"\1\2", text))
            if not math.isfinite(value):
                raise _Refused(node.start_mark, f"a number must be finite, but got {text}.")
            return value
    except (ValueError, KeyError):
        raise _Refused(node.start_mark, f"{text!r} is no {tag}.") from None
    raise _Refused(node.start_mark, f"the tag {node.tag!r} is not supported.")


def _syntax(error: yaml.MarkedYAMLError) -> str:
    if "'\\t'" in str(error.problem):
        return "YAML is indented with spaces; this is a tab."
    context = ""
    if error.context and error.context_mark:
        context = f" ({error.context} that begins in line {error.context_mark.line + 1})"
    return f"not valid YAML: {error.problem}{context}."


def _error_at(file: str, mark: yaml.Mark | None, message: str) -> ConfigError:
    place = f":{mark.line + 1}:{mark.column + 1}" if mark else ""
    return ConfigError(f"{file}{place}: {message}")
