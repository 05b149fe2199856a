"""Start-up where there is a configuration: the file, the BLASENV_ variables, and the two lines for a person.

Imported by `blasenv` only then. As strict as ``__init__``: nothing imported that a bare
interpreter has not loaded.
"""

import os
import sys

from . import ENABLED, MAX_THREADS, Config, Decision
from ._host import command_line, parse_command_line, parse_count, program_words

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

LEAST_CPUS = 0.001  # a thousandth, the unit in which people write CPUs
WARNED = "BLASENV_WARNED"  # the refused file that was reported in this process tree


# The keys of the configuration.
KEYS = "mode threads max_threads cpus rounding variables visible override cpu_count programs".split()
# What variables = "all" means: of each library that does not listen to OMP_NUM_THREADS, its own.
ALL_VARIABLES = (
    "OMP_NUM_THREADS",
    "NUMEXPR_NUM_THREADS",
    "NUMBA_NUM_THREADS",
    "TF_NUM_INTRAOP_THREADS",
    "TF_NUM_INTEROP_THREADS",
    "ORT_INTRA_OP_NUM_THREADS",
    "ORT_INTER_OP_NUM_THREADS",
    "ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS",
)


def _parse_value(text: str) -> "tuple[object, str]":
    """The value at the start of ``text``, and the rest. Raises ValueError with a sentence."""
    if text.startswith(('"', "'")):
        end = text.find(text[0], 1)
        if end < 0 or text.startswith(('"""', "'''")):
            raise ValueError("a string needs its closing quote on the same line")
        if text[0] == '"' and "\\" in text[:end]:
            raise ValueError("backslash escapes are not supported; write the string in 'single quotes'")
        return text[1:end], text[end + 1 :]
    if text.startswith("["):
        strings: list[object] = []
        rest = text[1:].lstrip(" \t")
        while not rest.startswith("]"):
            if not rest.startswith(('"', "'")):
                raise ValueError("a list holds quoted strings and ends on the same line")
            string, rest = _parse_value(rest)
            strings.append(string)
            rest = rest.lstrip(" \t")
            if rest.startswith(","):
                rest = rest[1:].lstrip(" \t")
            elif not rest.startswith("]"):
                raise ValueError("a list needs commas between its strings and a closing ]")
        return strings, rest[1:]
    word = text.partition("#")[0].rstrip(" \t")
    if word in ("true", "false"):
        return word == "true", text[len(word) :]
    whole, point, fraction = word.partition(".")
    if whole.isascii() and whole.isdigit() and len(word) < 10 and (whole[0] != "0" or whole == "0"):
        if not point:
            return int(word), text[len(word) :]
        if fraction.isascii() and fraction.isdigit():
            return float(word), text[len(word) :]
    raise ValueError(f"{word[:40]!r} is not a number, a quoted string, true, false or a list of strings")


def _expect_no_more(rest: str) -> None:
    rest = rest.lstrip(" \t")
    if rest and rest[0] != "#":
        raise ValueError(f"unexpected {rest[:40]!r} after the value")


def is_thread_variable(name: str) -> bool:
    """Whether ``name`` is that of a thread count, such as OMP_NUM_THREADS; blasenv touches no other."""
    return name.endswith("_THREADS") and name.isascii() and name.isupper() and name.replace("_", "").isalnum()


def _complaint(key: str, value: object) -> str:
    """What is wrong with the value of a top-level key, "" if nothing."""
    if key == "mode":
        return "" if value in ("auto", "single", "off") else 'mode is "auto", "single" or "off"'
    if key == "rounding":
        return "" if value in ("floor", "ceil") else 'rounding is "floor" or "ceil"'
    if key in ("visible", "override", "cpu_count"):
        return "" if isinstance(value, bool) else f"{key} is true or false"
    if key == "cpus":
        is_cpus = type(value) in (int, float) and LEAST_CPUS <= value <= MAX_THREADS  # type: ignore[operator]
        return "" if is_cpus else "cpus is a number such as 1.5"
    if key in ("threads", "max_threads"):
        return (
            ""
            if type(value) is int and 0 < value <= MAX_THREADS
            else f"{key} is a whole number from 1 to {MAX_THREADS}"
        )
    if key == "variables":
        if value == "all":
            return ""
        if isinstance(value, list) and value and all(is_thread_variable(name) for name in value):
            return "" if len(set(value)) == len(value) else "variables names one of them twice"
        return 'variables is "all", or a list of names that end in _THREADS, such as ["OMP_NUM_THREADS"]'
    return f"unknown key {key[:40]!r}; known are {', '.join(KEYS[:-1])} and [programs]"


def _program_complaint(key: str, value: object) -> str:
    """What is wrong with one line of [programs], "" if nothing."""
    if type(value) is int and 0 < value <= MAX_THREADS:
        return ""
    if isinstance(value, str):
        word, colon, count = value.partition(":")
        if value in ("auto", "single", "off") or (word + colon == "share:" and parse_count(count)):
            return ""
    return f'{key} is "auto", "single", "off", "share:N" or a whole number from 1 to {MAX_THREADS}'


def parse_config(contents: bytes) -> "tuple[dict[str, object], list[tuple[int, str]], dict[str, int]]":
    """The settings in a configuration file, what is wrong with it, and the line of each setting.

    The language is a subset of TOML 1.0 (https://toml.io/en/v1.0.0), one statement a line::

        statement = [ key "=" value | "[programs]" ] [ "#" comment ]
        key       = letters, digits, "_", "-" | string
        value     = digits [ "." digits ] | string | "true" | "false" | "[" [ string { "," string } [ "," ] ] "]"
        string    = '"' no quote, no backslash '"' | "'" no apostrophe "'"

    Whatever lies outside is a problem, ``(line, sentence)``, and never a different value. A
    bad line costs only itself here, so that a readable ``mode = "off"`` can still be found.
    """
    settings: dict[str, object] = {}
    problems: list[tuple[int, str]] = []
    lines: dict[str, int] = {}
    programs: dict[str, object] = {}
    table: dict[str, object] = settings
    for number, raw in enumerate(contents.replace(b"\r\n", b"\n").split(b"\n"), 1):
        try:
            if any((byte < 32 and byte != 9) or byte == 127 for byte in raw):
                raise ValueError("a control character")
            line = raw.decode().strip(" \t")
            if not line or line[0] == "#":
                continue
            if line[0] == "[":
                name, bracket, rest = line[1:].partition("]")
                if not bracket or name.strip(" \t") != "programs" or "programs" in settings:
                    table = {}  # its keys are nobody's
                    raise ValueError("the one table is [programs], once")
                _expect_no_more(rest)
                settings["programs"] = table = programs
            else:
                if line[0] in "\"'":
                    value, rest = _parse_value(line)
                    key = str(value)
                else:
                    key, equals, rest = line.partition("=")
                    key, rest = key.rstrip(" \t"), equals + rest
                    if not (key.isascii() and key.replace("_", "").replace("-", "").isalnum()):
                        raise ValueError(
                            'expected key = value; a key with other signs than A-Z a-z 0-9 _ - goes in "quotes"'
                        )
                rest = rest.lstrip(" \t")
                if rest[:1] != "=":
                    raise ValueError("expected key = value")
                value, rest = _parse_value(rest[1:].lstrip(" \t"))
                _expect_no_more(rest)
                complaint = (_program_complaint if table is programs else _complaint)(key, value)
                if complaint or key in table:
                    raise ValueError(complaint or f"{key} is there twice")
                table[key] = value
                lines[f"programs.{key}" if table is programs else key] = number
        except UnicodeDecodeError:
            problems.append((number, "not UTF-8"))
        except ValueError as error:
            problems.append((number, str(error)))
    if settings.get("mode") == "single" and "threads" in settings:
        problems.append((lines["threads"], 'mode = "single" means 1 thread; say either that or threads'))
    return settings, problems, lines


def take_file(
    config: Config,
    path: str,
    contents: bytes,
    problem: str,
    argv: "Sequence[str]",
    words: "Sequence[str] | None" = None,
) -> None:
    """Put a configuration file's settings into ``config``, or why it is refused.

    A file with anything wrong in it is refused whole, so that the defaults apply, except that a
    readable ``mode = "off"`` still counts.
    """
    config.path = path
    if problem:
        config.problems = [(0, problem)]
        return
    settings, config.problems, _ = parse_config(contents)
    if config.problems:
        settings = {"mode": "off"} if settings.get("mode") == "off" else {}
    if settings.get("variables") == "all":
        settings["variables"] = list(ALL_VARIABLES)
    vars(config).update(settings)
    if config.cpus:
        config.cpus_from = path
    if config.programs:
        name = program_name(argv, words)
        setting = config.programs.get(name)
        if setting is not None:
            config.program, config.mode, config.threads = name, "auto", None
            if isinstance(setting, int):
                config.threads = setting
            elif setting.startswith("share:"):
                config.share, config.shared_by = int(setting[6:]), f'processes ({name} = "{setting}")'
            else:
                config.mode = setting


def program_name(argv: "Sequence[str]", words: "Sequence[str] | None" = None) -> str:
    """The basename of the script, or the -m module, that this interpreter runs, or that its worker belongs to.

    When the hook runs, sys.argv has only "-m" in the place of the module. The full command
    line, ``words``, is in sys.orig_argv, since Python 3.10, and in /proc/self/cmdline. Inside of
    uWSGI and Apache only the last has anything.
    """
    if not argv or argv[0] not in ("", "-m", "-c"):
        return os.path.basename(argv[0]) if argv else ""
    return parse_command_line(program_words(words or getattr(sys, "orig_argv", None) or command_line("self")))


def parse_cpus(text: str) -> "float | None":
    """CPUs as people and Kubernetes write them, ``1.5`` or ``1500m``, None when it is none that a machine has."""
    number, scale = (text[:-1], 1000) if text.endswith("m") else (text, 1)
    whole, _, fraction = number.partition(".")
    if not (whole + fraction).isdigit() or not text.isascii() or len(text) > 20:
        return None
    cpus = float(number) / scale
    return cpus if LEAST_CPUS <= cpus <= MAX_THREADS else None


def take_environ(config: Config, environ: "Mapping[str, str]") -> None:
    """Put the BLASENV_ variables, wishes for one run, on top of the file's settings."""
    mode, threads = environ.get("BLASENV_MODE", ""), environ.get("BLASENV_THREADS", "")
    if mode in ("auto", "single", "off"):
        config.mode, config.threads, config.share, config.program = mode, None, 1, None
        config.shared_by = ""
    elif mode:
        config.notes.append(f'BLASENV_MODE={mode!r} is ignored: it is "auto", "single" or "off"')
    if threads and not parse_count(threads):
        config.notes.append(f"BLASENV_THREADS={threads!r} is ignored: it is a whole number from 1 to {MAX_THREADS}")
    elif threads and mode != "off":
        config.mode, config.threads, config.program = "auto", parse_count(threads), None
    cpus = environ.get("BLASENV_CPUS", "")
    if parse_cpus(cpus):
        config.cpus, config.cpus_from = parse_cpus(cpus), "BLASENV_CPUS"
    elif cpus:
        config.notes.append(f"BLASENV_CPUS={cpus!r} is ignored: it is a number of CPUs such as 1.5 or 1500m")
    wanted = environ.get("BLASENV_CPU_COUNT", "")
    if wanted.lower() in ("1", "yes", "true", "on"):
        config.cpu_count = True
    elif wanted in ENABLED:
        config.cpu_count = config.cpu_count and not wanted
    else:
        config.notes.append(f"BLASENV_CPU_COUNT={wanted!r} is ignored: it is 1 or 0")


def spare_numexpr(decision: Decision, environ: "Mapping[str, str]") -> None:
    """Set no count for NumExpr above its maximum, 64 or NUMEXPR_MAX_THREADS: it would say so and take 1.

    https://github.com/pydata/numexpr/blob/master/numexpr/utils.py, _init_num_threads
    """
    if int(decision.set["NUMEXPR_NUM_THREADS"]) > (parse_count(environ.get("NUMEXPR_MAX_THREADS", "")) or 64):
        decision.set = {name: value for name, value in decision.set.items() if name != "NUMEXPR_NUM_THREADS"}


def report(config: Config, decision: Decision) -> None:
    """One line on stderr about a refused configuration, once per process tree; another for BLASENV_DEBUG."""
    lines = []
    if config.problems and os.environ.get(WARNED) != config.path:
        number, problem = config.problems[0]
        where = f"{config.path}:{number}" if number else config.path
        os.environ[WARNED] = config.path or ""
        lines.append(f"{where}: {problem}; the file is ignored. To see all: blasenv config check")
    if os.environ.get("BLASENV_DEBUG", "") not in ("", "0"):
        values = " ".join([f"{name}={value}" for name, value in decision.set.items()]) or "nothing"
        kept = "".join([f", keeps {name}={value}" for name, value in decision.kept.items()])
        notes = "".join([f"; {note}" for note in decision.notes])
        shared = ""
        if decision.share > 1:
            limit = decision.limit
            cpus = f"{limit.quota / limit.period:g} CPUs " if limit and limit.quota and limit.period else ""
            shared = f"; {cpus}shared by {decision.share} {decision.shared_by}"
        lines.append(f"rule {decision.rule}, sets {values}{kept}{shared}{notes}")
    if sys.stderr is not None:
        for line in lines:
            sys.stderr.write(f"blasenv: {line}\n")
        sys.stderr.flush()
