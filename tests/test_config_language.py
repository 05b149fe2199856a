"""The configuration: its language, a subset of TOML with tomllib as the judge, and what beats what.

Whatever `parse_config` takes without complaint, TOML gives the same value; what it refuses, it
refuses with the number of the line and a sentence.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from conftest import run
from hypothesis import example, given, settings, strategies as st

import blasenv
from blasenv._config_file import parse_config
from blasenv._host import parse_command_line

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

DEFAULTS: dict[str, Any] = {
    "mode": "auto",
    "threads": None,
    "share": 1,
    "rounding": "floor",
    "variables": ["OMP_NUM_THREADS"],
    "visible": False,
    "override": False,
    "program": None,
}


@pytest.mark.parametrize(
    ("text", "want"),
    [
        ("", {}),
        ("\n\n", {}),
        ("# a comment", {}),
        ("  \t# indented", {}),
        ('mode = "auto"', {"mode": "auto"}),
        ("mode = 'single'", {"mode": "single"}),
        ('mode="off"#now', {"mode": "off"}),
        ('\t mode\t =\t "off" \t# now', {"mode": "off"}),
        ('"mode" = "off"', {"mode": "off"}),
        ("'mode' = 'off'", {"mode": "off"}),
        ('mode = "off"\r\nvisible = true\r\n', {"mode": "off", "visible": True}),
        ("threads = 1", {"threads": 1}),
        ("threads = 8192", {"threads": 8192}),
        ("threads = 4 # four", {"threads": 4}),
        ("threads = 4# four", {"threads": 4}),
        ('rounding = "floor"', {"rounding": "floor"}),
        ('rounding = "ceil"', {"rounding": "ceil"}),
        ("visible = true\noverride = false", {"visible": True, "override": False}),
        ('variables = ["OMP_NUM_THREADS"]', {"variables": ["OMP_NUM_THREADS"]}),
        ("variables = [ 'A_THREADS' , \"B_THREADS\" , ] # two", {"variables": ["A_THREADS", "B_THREADS"]}),
        ('variables = ["A_THREADS","B_THREADS"]', {"variables": ["A_THREADS", "B_THREADS"]}),
        ("[programs]", {"programs": {}}),
        ("\t[ programs ]\t# which", {"programs": {}}),
        (
            'mode = "auto"\n[programs]\ngunicorn = "single"\n"train.py" = 8\n\'a b\' = "off"\nc-d_1 = "auto"\n1 = 2',
            {"mode": "auto", "programs": {"gunicorn": "single", "train.py": 8, "a b": "off", "c-d_1": "auto", "1": 2}},
        ),
        ('[programs]\nuvicorn = "share:4"', {"programs": {"uvicorn": "share:4"}}),
        ('[programs]\nmode = "off"', {"programs": {"mode": "off"}}),
        ('[programs]\n"#" = 1\n"a=b" = 2\n"é" = 3\n"" = 4', {"programs": {"#": 1, "a=b": 2, "é": 3, "": 4}}),
    ],
)
def test_accepted(text: str, want: dict[str, Any]) -> None:
    settings, problems, lines = parse_config(text.encode())
    assert problems == []
    assert settings == want == tomllib.loads(text)
    for name, number in lines.items():
        assert name.rpartition("programs.")[2] in text.splitlines()[number - 1]


STRING = "a string needs its closing quote on the same line"
ESCAPE = "backslash escapes are not supported; write the string in 'single quotes'"
NO_VALUE = "is not a number, a quoted string, true, false or a list of strings"
NO_KEY = 'expected key = value; a key with other signs than A-Z a-z 0-9 _ - goes in "quotes"'
LIST = "a list holds quoted strings and ends on the same line"
COMMA = "a list needs commas between its strings and a closing ]"
TABLE = "the one table is [programs], once"
MODE = 'mode is "auto", "single" or "off"'
ROUNDING = 'rounding is "floor" or "ceil"'
THREADS = "threads is a whole number from 1 to 8192"
VARIABLES = 'variables is "all", or a list of names that end in _THREADS, such as ["OMP_NUM_THREADS"]'
UNKNOWN = (
    "; known are mode, threads, max_threads, cpus, rounding, variables, visible, override, cpu_count and [programs]"
)
CPUS = "cpus is a number such as 1.5"
PROGRAM = 'is "auto", "single", "off", "share:N" or a whole number from 1 to 8192'


@pytest.mark.parametrize(
    ("contents", "number", "sentence"),
    [
        # not the language
        (b"mode", 1, "expected key = value"),
        (b"mode off", 1, NO_KEY),
        (b"mo de = 1", 1, NO_KEY),
        (b"mode.x = 1", 1, NO_KEY),
        (b"= 1", 1, NO_KEY),
        (b"- # = 1", 1, NO_KEY),
        ("mödé = 1".encode(), 1, NO_KEY),
        (b"\xef\xbb\xbfmode = 1", 1, NO_KEY),
        (b'"mode"', 1, "expected key = value"),
        (b'"mode" "off"', 1, "expected key = value"),
        (b'"mode".x = 1', 1, "expected key = value"),
        (b'mode = "off', 1, STRING),
        (b"mode = 'off", 1, STRING),
        (b"mode = \"off'", 1, STRING),
        (b'mode = """off"""', 1, STRING),
        (b"mode = '''off'''", 1, STRING),
        (b'"mode = 1', 1, STRING),
        (b'mode = "o\\u0066f"', 1, ESCAPE),
        (b'"mo\\u0064e" = 1', 1, ESCAPE),
        (b"mode = off", 1, f"'off' {NO_VALUE}"),
        (b"mode =", 1, f"'' {NO_VALUE}"),
        (b"mode = # off", 1, f"'' {NO_VALUE}"),
        (b"threads = +4", 1, f"'+4' {NO_VALUE}"),
        (b"threads = -4", 1, f"'-4' {NO_VALUE}"),
        (b"threads = 1_0", 1, f"'1_0' {NO_VALUE}"),
        (b"threads = 0x4", 1, f"'0x4' {NO_VALUE}"),
        (b"threads = 04", 1, f"'04' {NO_VALUE}"),
        (b"threads = 4.0", 1, THREADS),
        (b"cpus = 4.", 1, f"'4.' {NO_VALUE}"),
        (b"cpus = .5", 1, f"'.5' {NO_VALUE}"),
        (b"cpus = 01.5", 1, f"'01.5' {NO_VALUE}"),
        (b"cpus = 1.5.1", 1, f"'1.5.1' {NO_VALUE}"),
        (b"cpus = -1.5", 1, f"'-1.5' {NO_VALUE}"),
        (b"cpus = nan", 1, f"'nan' {NO_VALUE}"),
        (b"cpus = inf", 1, f"'inf' {NO_VALUE}"),
        (b"cpus = 1e9", 1, f"'1e9' {NO_VALUE}"),
        (b"cpus = 0", 1, CPUS),
        (b"cpus = 0.0001", 1, CPUS),
        (b"cpus = 9000", 1, CPUS),
        (b"cpus = true", 1, CPUS),
        (b'cpus = "1.5"', 1, CPUS),
        (b"max_threads = 0", 1, "max_threads is a whole number from 1 to 8192"),
        (b"cpu_count = 1", 1, "cpu_count is true or false"),
        (b'variables = "most"', 1, VARIABLES),
        (b"threads = 4e0", 1, f"'4e0' {NO_VALUE}"),
        (b"threads = 4 5", 1, f"'4 5' {NO_VALUE}"),
        (b"threads = 1979-05-27", 1, f"'1979-05-27' {NO_VALUE}"),
        (b"threads = 1234567890", 1, f"'1234567890' {NO_VALUE}"),
        ("threads = \u0664".encode(), 1, f"'\u0664' {NO_VALUE}"),
        (b"threads = " + b"x" * 50, 1, f"'{'x' * 40}' {NO_VALUE}"),
        (b"visible = True", 1, f"'True' {NO_VALUE}"),
        (b"mode = {}", 1, f"'{{}}' {NO_VALUE}"),
        (b'mode = "off" now', 1, "unexpected 'now' after the value"),
        (b'mode = "off" "off"', 1, "unexpected '\"off\"' after the value"),
        (b"[programs", 1, TABLE),  # found by tests/support/fuzz.py
        (b"[programs] x", 1, "unexpected 'x' after the value"),
        (b'variables = ["A_THREADS"', 1, COMMA),
        (b'variables = ["A_THREADS" "B_THREADS"]', 1, COMMA),
        (b'variables = ["A_THREADS"\n]', 1, COMMA),
        (b"variables = [", 1, LIST),
        (b"variables = [,]", 1, LIST),
        (b"variables = [1]", 1, LIST),
        (b'variables = ["A_THREADS",, "B_THREADS"]', 1, LIST),
        (b'variables = [["A_THREADS"]]', 1, LIST),
        (b'variables = ["A_THREADS", # one', 1, LIST),
        (b'variables = ["A_THREADS]', 1, STRING),
        (b'variables = ["A_\\u0054HREADS"]', 1, ESCAPE),
        (b"[program]", 1, TABLE),
        (b"[[programs]]", 1, TABLE),
        (b'["programs"]', 1, TABLE),
        (b"[programs.x]", 1, TABLE),
        (b"[]", 1, TABLE),
        (b"[programs # x ]", 1, TABLE),
        (b"[programs]\n[programs]", 2, TABLE),
        (b"mode = 'off'\0", 1, "a control character"),
        (b"mode = 'o\x1bf'", 1, "a control character"),
        (b"# \x07", 1, "a control character"),
        (b"mode = 'off'\x7f", 1, "a control character"),
        (b"mode = 'off'\rmode = 'off'", 1, "a control character"),
        (b"mode = 'off'\r\r\n", 1, "a control character"),
        (b"\x0cmode = 'off'", 1, "a control character"),
        (b"mode = '\xff'", 1, "not UTF-8"),
        (b"# caf\xe9", 1, "not UTF-8"),
        (b"# \xed\xa0\x80", 1, "not UTF-8"),
        # not a setting
        (b"mode = 'on'", 1, MODE),
        (b"mode = ''", 1, MODE),
        (b"mode = 1", 1, MODE),
        (b"mode = true", 1, MODE),
        (b"mode = ['off']", 1, MODE),
        (b"rounding = 'round'", 1, ROUNDING),
        (b"rounding = 1", 1, ROUNDING),
        (b"threads = 0", 1, THREADS),
        (b"threads = 8193", 1, THREADS),
        (b"threads = true", 1, THREADS),
        (b"threads = '4'", 1, THREADS),
        (b"threads = ['4']", 1, THREADS),
        (b"visible = 1", 1, "visible is true or false"),
        (b"visible = 'true'", 1, "visible is true or false"),
        (b"override = 0", 1, "override is true or false"),
        (b"variables = []", 1, VARIABLES),
        (b"variables = 'OMP_NUM_THREADS'", 1, VARIABLES),
        (b"variables = ['PATH']", 1, VARIABLES),
        (b"variables = ['OMP_NUM_THREADS', 'LD_PRELOAD']", 1, VARIABLES),
        (b"variables = ['OMP_NUM_THREADS=1 X_THREADS']", 1, VARIABLES),
        (b"variables = ['omp_num_threads']", 1, VARIABLES),
        (b"variables = ['']", 1, VARIABLES),
        (b"variables = true", 1, VARIABLES),
        (b"mood = 'off'", 1, f"unknown key 'mood'{UNKNOWN}"),
        (b"programs = 1", 1, f"unknown key 'programs'{UNKNOWN}"),
        (b"'' = 1", 1, f"unknown key ''{UNKNOWN}"),
        (b"k" * 50 + b" = 1", 1, f"unknown key '{'k' * 40}'{UNKNOWN}"),
        (b"mode = 'off'\nmode = 'off'", 2, "mode is there twice"),
        (b"mode = 'off'\n\"mode\" = 'auto'", 2, "mode is there twice"),
        (b"[programs]\na = 1\n\na = 2", 4, "a is there twice"),
        (b"[programs]\na = 0", 2, f"a {PROGRAM}"),
        (b"[programs]\na = 8193", 2, f"a {PROGRAM}"),
        (b"[programs]\na = true", 2, f"a {PROGRAM}"),
        (b"[programs]\na = 'on'", 2, f"a {PROGRAM}"),
        (b"[programs]\na = '4'", 2, f"a {PROGRAM}"),
        (b"[programs]\na = 'share'", 2, f"a {PROGRAM}"),
        (b"[programs]\na = 'share:'", 2, f"a {PROGRAM}"),
        (b"[programs]\na = 'share:0'", 2, f"a {PROGRAM}"),
        (b"[programs]\na = 'share:x'", 2, f"a {PROGRAM}"),
        (b"[programs]\na = 'share:-1'", 2, f"a {PROGRAM}"),
        (b"[programs]\na = ['off']", 2, f"a {PROGRAM}"),
        (b"mode = 'single'\nthreads = 4", 2, 'mode = "single" means 1 thread; say either that or threads'),
        (b"threads = 4\nmode = 'single'", 1, 'mode = "single" means 1 thread; say either that or threads'),
        # the number of a line counts every line before it
        (b"\n# one\r\n\n mode = 'off'\nmood = 1", 5, f"unknown key 'mood'{UNKNOWN}"),
    ],
)
def test_refused(contents: bytes, number: int, sentence: str) -> None:
    assert parse_config(contents)[1][0] == (number, sentence)


def test_every_bad_line_is_named_and_costs_only_itself() -> None:
    settings, problems, _ = parse_config(b"mood = 1\nthreads = 4\n[tables]\nmode = 'off'\n[programs]\na = 1\nb = 0\n")
    assert settings == {"threads": 4, "programs": {"a": 1}}
    assert [number for number, _ in problems] == [1, 3, 7]


@pytest.mark.parametrize("key", ["mode", "threads", "rounding", "variables", "visible", "override"])
def test_every_key_is_a_setting_with_a_default(key: str, tmp_path: Path) -> None:
    assert key in UNKNOWN
    assert getattr(blasenv.read_config(str(tmp_path), {}), key) == DEFAULTS[key]


# Generated: lines near the subset, and lines that were hit by something.

BARE = st.sampled_from(
    ["mode", "threads", "rounding", "variables", "visible", "override", "mood", "a-b", "1", "a.b", "é"]
)
QUOTED = st.one_of(
    st.sampled_from(
        ["auto", "single", "off", "floor", "ceil", "share:2", "OMP_NUM_THREADS", "A_THREADS", "", "a#b", "é"]
    ),
    st.text(max_size=5),
).flatmap(lambda text: st.sampled_from([f'"{text}"', f"'{text}'", f'"""{text}"""']))
LISTED = st.lists(QUOTED, max_size=3).map(", ".join).flatmap(lambda text: st.sampled_from([f"[{text}]", f"[ {text},]"]))
NUMBERS = st.one_of(
    st.integers(-2, 9000).map(str),
    st.sampled_from(
        ["0", "00", "01", "+1", "1_0", "0x1", "1.0", "1e1", "inf", "1979-05-27", "999999999", "9999999999"]
    ),
)
VALUES = st.one_of(QUOTED, LISTED, NUMBERS, st.sampled_from(["true", "false", "True", "", "{}", "{a = 1}", "off"]))
BLANK = st.sampled_from(["", " ", "\t", "  ", "\u00a0", "\x0c"])
LINES = st.one_of(
    st.tuples(
        BLANK, st.one_of(BARE, QUOTED), BLANK, st.just("="), BLANK, VALUES, BLANK, st.sampled_from(["", "# c", "#"])
    ),
    st.tuples(
        BLANK,
        st.sampled_from(["[programs]", "[ programs ]", "[programs", "[[programs]]", "['programs']", "[p]", "#", ""]),
        BLANK,
    ),
).map("".join)
TEXTS = st.tuples(st.lists(LINES, max_size=6), st.sampled_from(["\n", "\r\n", "\r", "\n\n"])).map(
    lambda t: t[1].join(t[0])
)


@st.composite
def mutated(draw: st.DrawFn) -> str:
    """A text with one piece cut out, put in or doubled."""
    text = draw(TEXTS)
    start = draw(st.integers(0, len(text)))
    end = draw(st.integers(start, min(len(text), start + 4)))
    piece = draw(
        st.one_of(st.text(max_size=3), st.sampled_from(['"', "'", "\\", "#", "[", "]", "=", ",", "\r", "\0", "."]))
    )
    return text[:start] + piece * draw(st.integers(0, 2)) + text[end:]


@settings(max_examples=1000, deadline=None)
@given(text=st.one_of(TEXTS, mutated(), st.text(max_size=40)))
@example(text="mode = 'off'\r\n")
@example(text="\ufeffmode = 'off'")
@example(text="variables = ['' '''a''']")
@example(text="# \x7f")
@example(text="[programs]\n'' = 1")
def test_what_is_accepted_is_toml_and_the_same(text: str) -> None:
    try:
        contents = text.encode()
    except UnicodeEncodeError:  # a lone surrogate: no file holds one
        return
    settings, problems, _ = parse_config(contents)
    assert problems or settings == tomllib.loads(text)
    assert all(number >= 1 and sentence for number, sentence in problems)


@settings(max_examples=300, deadline=None)
@given(contents=st.binary(max_size=200))
def test_any_bytes_are_accepted_or_refused(contents: bytes) -> None:
    settings, problems, _ = parse_config(contents)
    assert problems or settings == tomllib.loads(contents.decode())


# read_config: from where, and what beats what.


def read(
    root: Path, text: str | bytes | None = None, environ: Mapping[str, str] = {}, argv: Sequence[str] = ()
) -> blasenv.Config:
    if text is not None:
        (root / "etc").mkdir(exist_ok=True)
        (root / "etc/blasenv.toml").write_bytes(text.encode() if isinstance(text, str) else text)
    return blasenv.read_config(str(root), environ, argv)


def values(config: blasenv.Config) -> dict[str, Any]:
    return {name: getattr(config, name) for name, value in DEFAULTS.items() if getattr(config, name) != value}


def test_no_file_is_the_defaults_and_no_problem(tmp_path: Path) -> None:
    config = read(tmp_path)
    assert (values(config), config.path, config.problems, config.notes) == ({}, None, [], [])


@pytest.mark.parametrize("trailing", ["", "/"])
def test_the_file_is_below_the_root(tmp_path: Path, trailing: str) -> None:
    read(tmp_path, "threads = 3\n")
    config = blasenv.read_config(f"{tmp_path}{trailing}", {})
    assert (config.threads, config.path) == (3, f"{tmp_path}/etc/blasenv.toml")


def test_another_file(tmp_path: Path) -> None:
    other = tmp_path / "other.toml"
    other.write_text("threads = 5\n")
    config = read(tmp_path, "threads = 3\nvisible = true\n", {"BLASENV_CONFIG": str(other)})
    assert (values(config), config.path) == ({"threads": 5}, str(other))


@pytest.mark.parametrize("none", ["", "/dev/null"])
def test_no_file_on_request(tmp_path: Path, none: str) -> None:
    config = read(tmp_path, "threads = 3\n", {"BLASENV_CONFIG": none})
    assert (values(config), config.path, config.problems) == ({}, None, [])


def test_a_named_file_that_is_absent_is_a_problem(tmp_path: Path) -> None:
    config = read(tmp_path, "threads = 3\n", {"BLASENV_CONFIG": f"{tmp_path}/absent.toml"})
    assert (values(config), config.problems) == ({}, [(0, "no such file")])


@pytest.mark.parametrize(
    ("text", "want"),
    [
        ("threads = 3\nmood = 1", {}),
        ("mood = 1\nvisible = true", {}),
        ("mood = 1\nmode = 'off'", {"mode": "off"}),
        ("mode = 'off'\nthreads = x", {"mode": "off"}),
        ("mode = 'off'\nvisible = true\nmood = 1", {"mode": "off"}),
        ("\"mode\" = 'off' # now\n=", {"mode": "off"}),
        ("mode = 'single'\nmood = 1", {}),
        ("[other]\nmode = 'off'", {}),
        ("[programs]\nmode = 'off'\n=", {}),
        ("mode = off", {}),
        ("# mode = 'off'\n=", {}),
    ],
)
def test_a_refused_file_leaves_the_defaults_and_a_readable_off(tmp_path: Path, text: str, want: dict[str, Any]) -> None:
    config = read(tmp_path, text)
    assert config.problems
    assert values(config) == want


@pytest.mark.parametrize(
    ("text", "environ", "want"),
    [
        ("mode = 'single'", {"BLASENV_MODE": "off"}, {"mode": "off"}),
        ("mode = 'off'", {"BLASENV_MODE": "auto"}, {}),
        ("mode = 'off'", {"BLASENV_MODE": "single"}, {"mode": "single"}),
        ("threads = 3", {"BLASENV_MODE": "auto"}, {}),
        ("threads = 3", {"BLASENV_MODE": "single"}, {"mode": "single"}),
        ("threads = 3\nrounding = 'ceil'", {"BLASENV_MODE": "auto"}, {"rounding": "ceil"}),
        ("threads = 3", {"BLASENV_THREADS": "5"}, {"threads": 5}),
        ("mode = 'off'", {"BLASENV_THREADS": "5"}, {"threads": 5}),
        ("mode = 'single'", {"BLASENV_THREADS": "5"}, {"threads": 5}),
        ("", {"BLASENV_THREADS": "5", "BLASENV_MODE": "off"}, {"mode": "off"}),
        ("", {"BLASENV_THREADS": "5", "BLASENV_MODE": "auto"}, {"threads": 5}),
        ("threads = 3", {"BLASENV_THREADS": "", "BLASENV_MODE": ""}, {"threads": 3}),
        ("mood = 1\nmode = 'off'", {"BLASENV_THREADS": "5"}, {"threads": 5}),
    ],
)
def test_the_environment_beats_the_file(
    tmp_path: Path, text: str, environ: dict[str, str], want: dict[str, Any]
) -> None:
    config = read(tmp_path, text, environ)
    assert (values(config), config.notes) == (want, [])


@pytest.mark.parametrize("value", ["0", "-1", "many", "8193", "1.5", "3,2", " 4", "\u0664", "9" * 5000])
def test_a_bad_number_in_the_environment_is_ignored_and_noted(tmp_path: Path, value: str) -> None:
    config = read(tmp_path, "threads = 3", {"BLASENV_THREADS": value})
    assert values(config) == {"threads": 3}
    assert config.notes == [f"BLASENV_THREADS={value!r} is ignored: it is a whole number from 1 to 8192"]


@pytest.mark.parametrize("value", ["on", "OFF", "0", "single ", "\udcff"])
def test_a_bad_mode_in_the_environment_is_ignored_and_noted(tmp_path: Path, value: str) -> None:
    config = read(tmp_path, "mode = 'single'", {"BLASENV_MODE": value})
    assert values(config) == {"mode": "single"}
    assert config.notes == [f'BLASENV_MODE={value!r} is ignored: it is "auto", "single" or "off"']


PROGRAMS = """
mode = "single"
[programs]
"train.py" = 8
gunicorn = "share:4"
"serve.py" = "auto"
"idle.py" = "off"
"""


@pytest.mark.parametrize(
    ("argv", "environ", "want"),
    [
        ((), {}, {"mode": "single"}),
        (("",), {}, {"mode": "single"}),
        (("-c",), {}, {"mode": "single"}),
        (("other.py",), {}, {"mode": "single"}),
        (("train.py",), {}, {"threads": 8, "program": "train.py"}),
        (("/srv/train.py", "-m", "gunicorn"), {}, {"threads": 8, "program": "train.py"}),
        (("/usr/bin/gunicorn", "train.py"), {}, {"share": 4, "program": "gunicorn"}),
        (("./serve.py",), {}, {"program": "serve.py"}),
        (("idle.py",), {}, {"mode": "off", "program": "idle.py"}),
        (("TRAIN.py",), {}, {"mode": "single"}),
        (("train.pyc",), {}, {"mode": "single"}),
        (("train.py",), {"BLASENV_THREADS": "2"}, {"threads": 2}),
        (("train.py",), {"BLASENV_MODE": "auto"}, {}),
        (("gunicorn",), {"BLASENV_MODE": "auto"}, {}),
        (("idle.py",), {"BLASENV_MODE": "single"}, {"mode": "single"}),
    ],
)
def test_a_program_beats_the_rest_of_the_file(
    tmp_path: Path, argv: tuple[str, ...], environ: dict[str, str], want: dict[str, Any]
) -> None:
    assert values(read(tmp_path, PROGRAMS, environ, argv)) == want


SAY_NAME = "from blasenv._config_file import program_name; print(repr(program_name(['-m'])))"


@pytest.mark.parametrize(
    "words",
    [
        ["-m", "say.name"],
        ["-msay.name"],
        ["-Bm", "say.name"],
        ["-sBmsay.name"],
        ["-X", "dev", "-m", "say.name"],
        ["-X", "importtime=0", "-m", "say.name"],
        ["-Xfrozen_modules=off", "-m", "say.name"],
        ["-Xno_debug_ranges", "-Wignore::DeprecationWarning:some.module", "-m", "say.name"],
        ["-W", "ignore::UserWarning", "-m", "say.name"],
        ["--check-hash-based-pycs", "default", "-m", "say.name"],
        ["-m", "say.name", "-m", "other"],
    ],
    ids=" ".join,
)
def test_the_module_behind_m(tmp_path: Path, words: list[str]) -> None:
    """At the time of the hook sys.argv is only ["-m"]; the name comes from the interpreter's command line."""
    package = Path(blasenv.__file__).parent.parent
    (tmp_path / "say").mkdir()
    (tmp_path / "say/name.py").write_text(f"import sys; sys.path.insert(0, {str(package)!r})\n{SAY_NAME}\n")
    assert run([sys.executable, *words], cwd=tmp_path).stdout == "'say.name'\n"


@pytest.mark.parametrize(
    ("words", "program"),
    [
        (["python3", "/opt/bin/train.py", "-m", "x"], "train.py"),
        (["python3", "-Bu", "-X", "dev", "train.py"], "train.py"),
        (["python3", "-m", "uvicorn", "app:app"], "uvicorn"),
        (["python3", "-c", "pass", "-m", "x"], "-c"),
        (["python3", "-Ic", "pass"], "-c"),
        (["python3", "-"], "-"),
        (["python3", "-m"], ""),
        (["python3", "-X"], ""),
        (["python3"], ""),
        ([], ""),
    ],
)
def test_parse_command_line(words: list[str], program: str) -> None:
    assert parse_command_line(words) == program


def sparse(path: Path, size: int) -> None:
    path.touch()
    os.truncate(path, size)


@pytest.mark.parametrize(
    ("place", "problem"),
    [
        (os.mkfifo, "not a regular file"),
        (os.mkdir, "not a regular file"),
        (lambda path: path.symlink_to("/dev/zero"), "not a regular file"),
        (lambda path: sparse(path, 100 << 20), "larger than 65536 bytes"),
        (lambda path: path.symlink_to(path), "Too many levels of symbolic links"),
        (lambda path: path.symlink_to("/proc/self/mem"), "Input/output error"),
    ],
    ids=["fifo", "directory", "device", "100 MB", "symlink loop", "read error"],
)
@pytest.mark.parametrize("named", [False, True])
def test_what_is_not_a_file_of_ours_is_refused(tmp_path: Path, place: Any, problem: str, named: bool) -> None:
    path = tmp_path / "etc/blasenv.toml"
    path.parent.mkdir()
    place(path)
    config = read(tmp_path, environ={"BLASENV_CONFIG": str(path)} if named else {})
    assert values(config) == {}
    assert (config.path, config.problems) == (str(path), [(0, problem)])


def test_the_largest_file_that_is_read(tmp_path: Path) -> None:
    config = read(tmp_path, b"mode = 'off'\n".ljust(blasenv.MAX_FILE, b"\n"))
    assert (values(config), config.problems) == ({"mode": "off"}, [])
