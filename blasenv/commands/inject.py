"""``blasenv inject``: blasenv for containers whose images nobody rebuilds."""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING

from blasenv.errors import Failure
from blasenv.inject import manifests
from blasenv.inject.contents import SUPPORTED, collect
from blasenv.inject.engines import ENGINES, RUNTIME_CLASS, Settings, check, find_program, lines, wrapper
from blasenv.inject.export import DEFAULT, check_directory, export, keep, read_exported
from blasenv.inject.runtime import ANNOTATION
from blasenv.output.text import paint, paragraph, print_json, printable, table

if TYPE_CHECKING:
    from blasenv.inject.contents import Contents

NAMESPACE = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?", re.ASCII)  # RFC 1123, as Kubernetes asks
LABEL = re.compile(
    r"([a-z0-9.-]{1,253}/)?[A-Za-z0-9]([\w.-]{0,61}[A-Za-z0-9])?=[A-Za-z0-9]([\w.-]{0,61}[A-Za-z0-9])?", re.ASCII
)


def inject_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the actions of ``blasenv inject`` to its parser."""
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)

    def add(name: str, what: str, act: Callable[[argparse.Namespace], int]) -> argparse.ArgumentParser:
        action: argparse.ArgumentParser = actions.add_parser(
            name, help=what, description=f"{what[0].upper()}{what[1:]}."
        )
        action.set_defaults(act=act)
        return action

    _export_arguments(add("export", "write what a container needs into a directory", _export))
    for name, engine in ENGINES.items():
        _engine_arguments(add(name, f"the configuration that makes {engine.title} inject it", _engine))
    _k8s_arguments(add("k8s", "manifests for a cluster whose nodes nobody may touch", _k8s))


def inject_command(args: argparse.Namespace) -> int:
    """``blasenv inject``: do one action."""
    act: Callable[[argparse.Namespace], int] = args.act
    return act(args)


def _python_argument(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--python", action="append", default=[], metavar="PYTHON",
        help="one more interpreter to make byte code with (may be repeated); those of this machine are found",
    )  # fmt: skip


def _export_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("directory", metavar="DIR", help=f"new, empty, or exported to before, such as {DEFAULT}")
    _python_argument(parser)
    parser.add_argument(
        "--add", action="store_true", help="keep the byte code that is there, when the code is this version's"
    )


def _export(args: argparse.Namespace) -> int:
    directory = os.path.abspath(args.directory)
    try:
        check_directory(directory)  # before the search for interpreters, which takes a while
        contents = collect(args.python)
        if args.add:
            keep(contents, directory)
        export(contents, directory)
    except OSError as error:
        raise Failure(f"{printable(str(error.filename or directory))} cannot be written: {error.strerror}") from None
    _tell(contents)
    print(f"{len(contents.files) + 1} files in {printable(directory)}")
    return 0


def _engine_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--startup", default=DEFAULT, metavar="DIR", help="what was exported to (default: %(default)s)")
    parser.add_argument("--real-runtime", default="", metavar="PATH", help="default: the first of runc, crun on PATH")
    parser.add_argument("--check", action="store_true", help="print whether the configuration is in place")
    parser.add_argument("--root", default="/", metavar="DIR", help="with --check: look below DIR, not /")
    parser.add_argument("--json", action="store_true", help="with --check: print JSON")


def _engine(args: argparse.Namespace) -> int:
    engine = ENGINES[args.action]
    settings = Settings(find_program(), args.startup, args.real_runtime)
    if not args.check:
        if args.json or args.root != "/":
            raise Failure("--json and --root go with --check", 2)
        _print_lines(args.action, settings)
        return 0
    if not os.path.isdir(args.root):
        raise Failure(f"--root {args.root}: no such directory", 2)
    checks = list(check(args.action, settings, args.root))
    fine = all(one.fine is not False for one in checks)
    if args.json:
        fields = [{"name": x.name, "ok": x.fine, "text": x.text, "advice": x.advice or None} for x in checks]
        print_json({"schema": 1, "engine": args.action, "ok": fine, "checks": fields})
    else:
        words = {True: paint("green", "ok"), False: paint("red", "no"), None: paint("dim", "?")}
        print(table([], [(words[x.fine], x.name, "; ".join(filter(None, [x.text, x.advice]))) for x in checks]))
        if fine:
            print(f"{engine.title} gives blasenv to the containers that it makes from now on.")
    return 0 if fine else 1


def _print_lines(name: str, settings: Settings) -> None:
    """The file's lines on stdout, and on stderr where they go and what else there is to do."""
    engine = ENGINES[name]
    told = [f"# for {engine.file}, beside what is there; then: {engine.apply}"]
    if settings.options and not engine.options:
        path = f"{os.path.dirname(settings.program)}/blasenv-runtime-here"
        told.append(
            f"# and, executable, as {path}: {engine.title} hands a runtime no options\n{wrapper(settings)}".rstrip()
        )
        settings = Settings(path)
    if name == "docker":
        told.append("# without default-runtime, a container asks for it: docker run --runtime blasenv")
    if name == "containerd":
        told.append("# SystemdCgroup as it is for your runc; a node has one driver")
    if name in ("containerd", "crio"):
        told.append(f"# for kubectl apply; pods ask for it with runtimeClassName: blasenv\n{RUNTIME_CLASS}".rstrip())
    print("\n\n".join(told), file=sys.stderr)
    print(lines(name, settings), end="")


def _k8s_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--namespace", action="append", metavar="NAME", help="where the pods are (may be repeated; default: default)"
    )
    parser.add_argument(
        "--label", type=_label, metavar="KEY=VALUE",
        help="pods with this label opt in (default: all in namespaces with blasenv.inject=true)",
    )  # fmt: skip
    parser.add_argument("--config", metavar="FILE", help="a blasenv.toml for them")
    parser.add_argument("--kyverno", action="store_true", help="a policy for Kyverno, where Kubernetes is before 1.36")
    parser.add_argument("--from", dest="directory", metavar="DIR", help="the files that were exported to DIR")
    _python_argument(parser)


def _label(text: str) -> str:
    if not LABEL.fullmatch(text):
        raise argparse.ArgumentTypeError(f"{text!r} is no label; write KEY=VALUE")
    return text


def _k8s(args: argparse.Namespace) -> int:
    namespaces = args.namespace or ["default"]
    for namespace in namespaces:
        if not NAMESPACE.fullmatch(namespace):
            raise Failure(f"--namespace {namespace!r} is not the name of a namespace", 2)
    extra = {manifests.CONFIG: manifests.read_toml(args.config)} if args.config else {}
    if args.directory:
        files = read_exported(args.directory)
    else:
        contents = collect(args.python)
        files = contents.files
        _tell(contents)
    files = {**files, **extra}
    documents = [manifests.config_map(files, namespace) for namespace in namespaces]
    documents += manifests.policy(files, args.label or "", kyverno=args.kyverno)
    print("---\n".join(manifests.yaml(document) + "\n" for document in documents), end="")
    told = ["blasenv inject k8s | kubectl apply --server-side -f -"]
    told += [f"kubectl label namespace {name} {ANNOTATION}=true" for name in namespaces if not args.label]
    told.append(
        "An image's own PYTHONPATH is not in the pod, and a policy cannot keep it: for images that have one, "
        "blasenv inject containerd (or crio) and its RuntimeClass."
    )
    print("\n".join(f"# {line}" for line in told), file=sys.stderr)
    return 0


def _version(version: tuple[int, int]) -> str:
    return ".".join(map(str, version))


def _tell(contents: Contents) -> None:
    """Say on stderr for which versions of Python there is byte code, and for which none."""
    for note in contents.notes:
        print(paragraph(note), file=sys.stderr)
    have = [_version(version) for version in SUPPORTED if version in contents.compiled.values()]
    print(f"byte code for Python {', '.join(have) or 'none'}", file=sys.stderr)
    if contents.missing:
        names = ", ".join(map(_version, contents.missing))
        text = (
            f"none for {names}: there each start compiles the code anew, about 30 million instructions instead of 2; "
        )
        print(paragraph(text + "--python PYTHON names an interpreter that is not found by itself"), file=sys.stderr)
