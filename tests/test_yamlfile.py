"""YAML with positions: scalars of YAML 1.2, located faults, bounded size."""

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from raysearch.errors import ConfigError
from raysearch.yamlfile import MAX_BYTES, load_yaml, parse_yaml


@pytest.mark.parametrize(
    "text, value",
    [
        ("1e-3", 1e-3),
        ("5E4", 5e4),
        ("-.5", -0.5),
        ("3.", 3.0),
        ("+7", 7),
        ("010", 10),
        ("1:30", "1:30"),
        ("1_000", "1_000"),
        ("yes", "yes"),
        ("off", "off"),
        ("true", True),
        ("FALSE", False),
        ("null", None),
        ("~", None),
        ("", None),
        ("2024-01-01", "2024-01-01"),
        ("'1e-3'", "1e-3"),
        ("!!str 5", "5"),
        ("e3", "e3"),
        ("<<", "<<"),
    ],
)
def test_scalars_are_those_of_yaml_1_2(text, value):
    read = parse_yaml(f"key: {text}\n", "a.yaml").values["key"]
    assert read == value and type(read) is type(value)


scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False)
values = st.recursive(
    scalars.filter(lambda v: v not in (float("inf"), float("-inf")))
    | st.text("abc :#-'\"1e", max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.text("abcxyz", min_size=1, max_size=4), inner, max_size=3)
    ),
    max_leaves=12,
)


@given(st.dictionaries(st.text("abcxyz", min_size=1, max_size=4), values, max_size=4))
def test_what_pyyaml_writes_is_read_back(written):
    read = parse_yaml(yaml.safe_dump(written), "a.yaml").values
    assert read == written


def test_positions_count_from_one():
    document = parse_yaml("a: 1\nb:\n  - x\n  - {deep:   5}\n", "a.yaml")
    assert document.locate(("a",)) == "line 1, column 4"
    assert document.locate(("a",), key=True) == "line 1, column 1"
    assert document.locate(("b", 1, "deep")) == "line 4, column 14"
    assert document.locate(("b", 1, "absent")) == "line 4, column 5"
    assert str(document.error(("b", 0), "no.")) == "a.yaml:3:5: no."


@pytest.mark.parametrize(
    "text, message",
    [
        ("a: 1\na: 2\n", ":2:1: the key 'a' is given twice (first in line 1)."),
        ("a:\n\tb: 1\n", ":2:1: YAML is indented with spaces; this is a tab."),
        ("a: [1, 2\n", ":2:1: not valid YAML:"),
        ("- 1\n", ":1:1: the file must be a mapping"),
        ("just text\n", ":1:1: the file must be a mapping"),
        ("", ": the file is empty."),
        ("# only a comment\n", ": the file is empty."),
        ("a: 1\n---\nb: 2\n", ":2:1: not valid YAML:"),
        ("a: &x 1\nb: *x\n", ":2:4: aliases (*name) are not supported; write the value out."),
        ("a: !!python/object:os.system {}\n", ":1:4: the tag"),
        ("a: !!set {x}\n", ":1:4: the tag"),
        ("a: !!int no\n", ":1:4: 'no' is no int."),
        ("a: !!bool yes\n", ":1:4: 'yes' is no bool."),
        ("a: !mine 3\n", ":1:4: the tag"),
        ("a: .inf\n", ":1:4: a number must be finite, but got .inf."),
        ("a: -.INF\n", ":1:4: a number must be finite"),
        ("a: .nan\n", ":1:4: a number must be finite"),
        ("a: 1e999\n", ":1:4: a number must be finite"),
        ("1: 2\n", ":1:1: a key must be a name."),
        ("[a]: 2\n", ":1:1: a key must be a name."),
        ("a: " + "[" * 100 + "]" * 100, ":1:23: values can be nested 20 deep at most."),
        ("a: 1\nb: \x07\n", ":2: the character '\\x07' cannot stand in a YAML file."),
        ("a: b: c\n", ":1:5: not valid YAML: mapping values are not allowed here."),
    ],
)
def test_fault_is_named_with_line_and_column(text, message):
    with pytest.raises(ConfigError) as error:
        parse_yaml(text, "a.yaml")
    assert str(error.value).startswith("a.yaml" + message)


@given(st.text("ab:-[]{}&*!|>'\"%@#? \n\t,1.e~", max_size=40))
def test_any_text_is_read_or_refused_as_a_user_error(text):
    try:
        parse_yaml(text, "a.yaml")
    except ConfigError as error:
        assert str(error).startswith("a.yaml:")


def test_alias_bomb_is_refused_at_once(tmp_path):
    levels = ["a0: &a0 [x, x]"]
    levels += [f"a{i}: &a{i} [*a{i - 1}, *a{i - 1}]" for i in range(1, 60)]
    path = tmp_path / "bomb.yaml"
    path.write_text("\n".join(levels))
    with pytest.raises(ConfigError, match="bomb.yaml:2:10: aliases"):
        load_yaml(path)


@pytest.mark.parametrize(
    "data, message",
    [
        (b"a: 1\nb: \xff\n", ":2: the file must be UTF-8 text."),
        (b"#" * (MAX_BYTES + 1), ": a YAML file holds at most"),
    ],
)
def test_unreadable_bytes_are_named(tmp_path, data, message):
    path = tmp_path / "a.yaml"
    path.write_bytes(data)
    with pytest.raises(ConfigError) as error:
        load_yaml(path)
    assert str(error.value).startswith(f"{path}{message}")


def test_missing_file_and_folder_are_user_errors(tmp_path):
    for path in (tmp_path / "none.yaml", tmp_path):
        with pytest.raises(ConfigError, match="cannot be read"):
            load_yaml(path)


def test_byte_order_mark_and_windows_line_ends_are_read(tmp_path):
    path = tmp_path / "a.yaml"
    path.write_bytes(b"\xef\xbb\xbfa: 1\r\nb: 2\r\n")
    document = load_yaml(path)
    assert document.values == {"a": 1, "b": 2}
    assert document.locate(("b",)) == "line 2, column 4"
