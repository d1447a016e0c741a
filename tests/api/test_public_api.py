"""What mnndask promises to users, name by name: ``public_api.txt``. A change must be meant and announced.

If a change is meant, run ``python tests/api/test_public_api.py``, which rewrites that file, and name it in
CHANGELOG.md under Unreleased. For a release, ``python tests/api/test_public_api.py --released`` also makes
``public_api_released.txt`` equal to it.
"""

from __future__ import annotations

import dataclasses
import inspect
import re
import sys
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from difflib import unified_diff
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any

import click
import pytest

import mnndask
from mnndask.cli.main import cli
from mnndask.io.record import FORMAT_VERSION

HERE = Path(__file__).parent
RECORDED, RELEASED = HERE / "public_api.txt", HERE / "public_api_released.txt"
ROOT = HERE.parents[1]
CHANGELOG = ROOT / "CHANGELOG.md"
MEANT = (
    "If the change is meant, run: python tests/api/test_public_api.py\n"
    "and add a line to CHANGELOG.md under Unreleased that names it."
)
PLAIN = (bool, int, float, str, type(None))  # shown alike by all versions of Python and of libraries


def public_api() -> list[str]:
    """Return a line for each public name and option, after one with the version."""
    return [
        f"version {version()}",
        *of_module(mnndask),
        *of_command(cli, "mnndask"),
        f'uns["mnn"]["format_version"] = {FORMAT_VERSION}',
    ]


def version() -> str:
    """Return the version of this source; an installed one may be older."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return str(project["version"])


def of_module(module: ModuleType) -> Iterator[str]:
    """Yield the lines of what a module lists in ``__all__``."""
    for name in sorted(module.__all__):
        value, full = getattr(module, name), f"{module.__name__}.{name}"
        if isinstance(value, ModuleType):
            yield f"{full} (module)"
            yield from of_module(value)
        elif inspect.isclass(value):
            yield from of_class(value, full)
        elif isinstance(value, Mapping):
            yield f"{full} = {{{', '.join(f'{key!r}: {plain(value[key])}' for key in value)}}}"
        elif isinstance(value, str):
            yield f"{full} (text)"
        else:
            yield full + signature(value)


def of_class(cls: type, name: str) -> Iterator[str]:
    """Yield the lines of a class: constructor or bases, fields, fitted attributes, methods and properties.

    What it inherits from other libraries is left out.
    """
    if issubclass(cls, BaseException):
        bases = [f"{base.__module__}.{base.__name__}".removeprefix("builtins.") for base in cls.__bases__]
        yield f"{name}({', '.join(bases)}) (error)"
    else:
        yield name + signature(cls)
    members = {f"{one} (attribute)" for one in documented_attributes(cls)}
    if dataclasses.is_dataclass(cls):
        members |= {f"{field.name} (field)" for field in dataclasses.fields(cls)}
    for owner in cls.__mro__:
        if not owner.__module__.startswith("mnndask") and owner is not cls:
            continue
        for key, value in vars(owner).items():
            if key.startswith("_"):
                continue
            if isinstance(value, property):
                members = {one for one in members if one != f"{key} (attribute)"} | {f"{key} (property)"}
            elif isinstance(value, FunctionType | classmethod | staticmethod):
                members.add(key + signature(getattr(cls, key), "self"))
    yield from sorted(f"{name}.{one}" for one in members)


def documented_attributes(cls: type) -> list[str]:
    """Return the names in the section Attributes of a docstring; fitted attributes stand only there."""
    found = re.search(r"^Attributes\n-+\n((?:.+\n?)*)", inspect.cleandoc(cls.__doc__ or ""), re.MULTILINE)
    terms = re.findall(r"^\S.*", found[1], re.MULTILINE) if found else []
    return [name.strip() for term in terms for name in term.split(",")]


def signature(function: Any, *left_out: str) -> str:
    """Return names, kinds and defaults of parameters, without their types."""
    parts, before = [], inspect.Parameter.POSITIONAL_OR_KEYWORD
    factories = {}
    if dataclasses.is_dataclass(function):
        factories = {field.name: field.default_factory for field in dataclasses.fields(function)}
    for one in inspect.signature(function).parameters.values():
        if one.name in left_out:
            continue
        if one.kind is one.KEYWORD_ONLY and before not in {one.VAR_POSITIONAL, one.KEYWORD_ONLY}:
            parts.append("*")
        if before is one.POSITIONAL_ONLY is not one.kind:
            parts.append("/")
        before = one.kind
        stars = {one.VAR_POSITIONAL: "*", one.VAR_KEYWORD: "**"}.get(one.kind, "")
        factory = factories.get(one.name, dataclasses.MISSING)
        if one.default is one.empty:
            parts.append(f"{stars}{one.name}")
        elif factory is not dataclasses.MISSING:
            parts.append(f"{one.name}={factory.__name__}()")
        else:
            parts.append(f"{one.name}={plain(one.default)}")
    return f"({', '.join(parts)})"


def of_command(command: click.Command, name: str) -> Iterator[str]:
    """Yield the lines of a command, of its arguments and options, and of its commands."""
    yield f"{name} (command)"
    context = command.make_context(name, [], resilient_parsing=True)  # does not ask for what is required
    for one in sorted(command.params, key=lambda one: max(one.opts, key=len)):
        if isinstance(one, click.Option):
            yield f"{name} {option(one, context.params.get(one.name))}"
        else:
            yield f"{name} {str(one.name).upper()}{'...' if one.nargs != 1 else ''} (argument)"
    for other in sorted(getattr(command, "commands", ())):
        yield from of_command(command.commands[other], f"{name} {other}")


def option(one: click.Option, default: Any) -> str:
    """Return an option's longest name, what it takes, its default, and its other names."""
    first = max(one.opts, key=len)
    others = [name for name in (*one.opts, *one.secondary_opts) if name != first]
    if one.is_flag:
        takes = "FLAG"
    elif isinstance(one.type, click.Choice):
        takes = f"[{'|'.join(one.type.choices)}]"
    else:
        takes = one.metavar or one.type.name.upper()
    if isinstance(one.type, click.IntRange):
        takes += f" {one.type.min} to {one.type.max}".replace(" None", " any")
    ending = " required" if one.required else f" = {plain(default)}" if one.expose_value else ""
    return f"{first} {takes}{ending}" + (f", also {', '.join(sorted(others))}" if others else "")


def plain(value: Any) -> str:
    """Return the text of a default; all versions must show it alike."""
    if isinstance(value, tuple | list):
        return f"[{', '.join(map(plain, value))}]"
    if isinstance(value, Path):
        return repr(value.as_posix())
    if not isinstance(value, PLAIN):
        what = f"{value!r} is a default that versions may show differently: say in plain() how to show it."
        raise TypeError(what)
    return repr(value)


def difference(recorded: Sequence[str], found: Sequence[str]) -> str:
    """Return the lines that only one of two lists has: ``-`` before recorded, ``+`` before found ones."""
    compared = list(unified_diff(recorded, found, n=0, lineterm=""))[2:]
    return "\n".join(line for line in compared if not line.startswith("@@"))


def changed_names(before: Sequence[str], after: Sequence[str]) -> set[str]:
    """Return what a changelog must name: options, and the last parts of other names."""
    changed = set(before) ^ set(after)
    return {short_name(line) for line in changed if not line.startswith("version ")}


def short_name(line: str) -> str:
    """Return the name of a line as a changelog would give it."""
    command = re.match(r"mnndask(?: [a-z]+)*", line)
    if line.startswith("mnndask ") and command is not None:
        options = re.search(r" (--[\w-]+|-\w)", line)
        return options[1] if options else command[0]
    full = re.match(r'[\w.\[\]"]+', line)
    return re.findall(r"\w+", full[0])[-1] if full else line


def unnamed(names: set[str], changelog: str) -> list[str]:
    """Return the names that the part Unreleased of a changelog does not mention."""
    part = re.search(r"^## \[Unreleased\]$(.*?)(?=^## \[|\Z)", changelog, re.MULTILINE | re.DOTALL)
    text = part[1] if part else ""
    return sorted(name for name in names if not re.search(rf"(?<![\w-]){re.escape(name)}(?![\w-])", text))


def last_release(changelog: str) -> str | None:
    """Return the version of the first release in a changelog; None if nothing was released."""
    found = re.search(r"^## \[(\d[^\]]*)\]", changelog, re.MULTILINE)
    return found[1] if found else None


def read(path: Path) -> list[str]:
    """Return the lines of a recorded list."""
    return path.read_text(encoding="utf-8").splitlines()


def test_the_public_api_is_the_recorded_one():
    found = difference(read(RECORDED)[1:], public_api()[1:])
    assert not found, f"The public API is not that of tests/api/{RECORDED.name}:\n{found}\n{MEANT}"


def test_the_changelog_names_what_changed_since_the_last_release():
    names = changed_names(read(RELEASED), read(RECORDED))
    missing = unnamed(names, CHANGELOG.read_text(encoding="utf-8"))
    assert not missing, f"CHANGELOG.md does not name, under Unreleased: {', '.join(missing)}."


def test_both_lists_say_which_version_they_are_of():
    for path in (RECORDED, RELEASED):
        assert re.fullmatch(r"version \d+\.\d+\.\d+\S*", read(path)[0])


def test_the_released_list_is_that_of_the_last_release():
    last = last_release(CHANGELOG.read_text(encoding="utf-8"))
    if last is not None:
        remedy = "For a release, run: python tests/api/test_public_api.py --released"
        assert read(RELEASED)[0] == f"version {last}", remedy


def test_names_of_other_libraries_are_not_promised():
    lines = [line for line in public_api() if line.startswith("mnndask.MNNCorrector.")]
    assert lines
    assert not [
        line for line in lines if re.search("get_params|set_params|set_output|_request|metadata", line)
    ]


def made_up(a, *, k=20):
    """Stand for a public function."""


@click.command()
@click.option("-k", "--k", "k", type=int, default=20)
@click.option("--refine/--no-refine", default=False)
@click.option("--scratch")
@click.option("--dry-run", is_flag=True)
@click.option("--mode", type=click.Choice(["a", "b"]), default="a")
@click.argument("inputs", nargs=-1, required=True)
def commanded(**_):
    """Stand for a command."""


def test_lines_of_a_function_and_of_a_command():
    def all_kinds(a, /, b, *c, d=None, **e): ...

    assert signature(made_up) == "(a, *, k=20)"
    assert signature(all_kinds) == "(a, /, b, *c, d=None, **e)"
    assert list(of_command(commanded, "mnndask made")) == [
        "mnndask made (command)",
        "mnndask made --dry-run FLAG = False",
        "mnndask made --k INTEGER = 20, also -k",
        "mnndask made --mode [a|b] = 'a'",
        "mnndask made --refine FLAG = False, also --no-refine",
        "mnndask made --scratch TEXT = None",
        "mnndask made INPUTS... (argument)",
    ]


@pytest.mark.parametrize(
    ("changed", "shown"),
    [
        (lambda a, *, k=10: None, "-f(a, *, k=20)\n+f(a, *, k=10)"),
        (lambda a, *, k=20, new=None: None, "-f(a, *, k=20)\n+f(a, *, k=20, new=None)"),
        (lambda a, k=20: None, "-f(a, *, k=20)\n+f(a, k=20)"),
        (lambda b, *, k=20: None, "-f(a, *, k=20)\n+f(b, *, k=20)"),
        (made_up, ""),
    ],
)
def test_a_changed_function_is_noticed(changed, shown):
    assert difference([f"f{signature(made_up)}"], [f"f{signature(changed)}"]) == shown


@pytest.mark.parametrize(
    ("other", "shown"),
    [
        (None, "-mnndask made --k INTEGER = 20, also -k"),
        (
            click.Option(["-k", "--k", "k"], type=int, default=10),
            "-mnndask made --k INTEGER = 20, also -k\n+mnndask made --k INTEGER = 10, also -k",
        ),
        (
            click.Option(["--k"], type=int, default=20),
            "-mnndask made --k INTEGER = 20, also -k\n+mnndask made --k INTEGER = 20",
        ),
    ],
)
def test_a_removed_or_changed_option_is_noticed(other, shown):
    before = list(of_command(commanded, "mnndask made"))
    params = [other if one.name == "k" else one for one in commanded.params]
    after = click.Command("made", params=[one for one in params if one is not None])
    assert difference(before, list(of_command(after, "mnndask made"))) == shown


def test_a_changed_class_is_noticed():
    @dataclasses.dataclass
    class Before:
        size: int
        parts: list = dataclasses.field(default_factory=list)

        def grow(self, by=1): ...

    @dataclasses.dataclass
    class After:
        size: int = 0
        parts: list = dataclasses.field(default_factory=list)

        @property
        def half(self): ...

    assert list(of_class(Before, "C")) == [
        "C(size, parts=list())",
        "C.grow(by=1)",
        "C.parts (field)",
        "C.size (field)",
    ]
    assert difference(list(of_class(Before, "C")), list(of_class(After, "C"))).splitlines() == [
        "-C(size, parts=list())",
        "-C.grow(by=1)",
        "+C(size=0, parts=list())",
        "+C.half (property)",
    ]


def test_a_default_that_versions_may_show_differently_is_refused():
    with pytest.raises(TypeError, match="plain"):
        signature(lambda a=print: None)


@pytest.mark.parametrize(
    ("line", "name"),
    [
        ("mnndask.mnn_correct(*datas, k=20)", "mnn_correct"),
        ("mnndask.MNNCorrector.fit(datas, y=None)", "fit"),
        ("mnndask.RECOMMENDED = {'k': 10}", "RECOMMENDED"),
        ("mnndask.metrics (module)", "metrics"),
        ("mnndask correct --k INTEGER = 20, also -k", "--k"),
        ("mnndask correct (command)", "mnndask correct"),
        ("mnndask correct INPUTS... (argument)", "mnndask correct"),
        ('uns["mnn"]["format_version"] = 2', "format_version"),
    ],
)
def test_names_that_a_changelog_gives(line, name):
    assert short_name(line) == name


def test_only_the_unreleased_part_of_a_changelog_counts():
    changelog = "# Changelog\n\n## [Unreleased]\n\n- `fit` and `--k`.\n\n## [0.1.0]\n\n- `old`, `--k-old`.\n"
    assert unnamed({"fit", "--k"}, changelog) == []
    assert unnamed({"old", "fi", "--k-old", "k"}, changelog) == ["--k-old", "fi", "k", "old"]
    assert last_release(changelog) == "0.1.0"
    assert last_release(changelog[:30]) is None
    assert changed_names(["version 1", "a.b(c)", "a.d"], ["version 2", "a.b(c, e=1)", "a.d"]) == {"b"}


def test_a_replaced_list_names_the_version(tmp_path):
    record(tmp_path / "list.txt")
    assert read(tmp_path / "list.txt") == public_api()


def record(path: Path) -> None:
    """Write the list of today."""
    path.write_text("\n".join(public_api()) + "\n", encoding="utf-8", newline="\n")


if __name__ == "__main__":
    record(RECORDED)
    if "--released" in sys.argv[1:]:
        RELEASED.write_bytes(RECORDED.read_bytes())
