"""Docstrings of public objects say what a value is not for, show an example, and name all parameters."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator, Mapping
from types import FunctionType, ModuleType
from typing import Any

import pytest

import mnndask
from mnndask.errors import MNNError

SECTIONS = (  # in numpydoc's order
    *("Parameters", "Attributes", "Returns", "Raises", "See Also"),
    *("Notes", "References", "Examples"),
)


def sections_of(text: str) -> dict[str, str]:
    """Return the sections of a docstring in numpydoc's form; what stands before them is called ``""``."""
    found, name = {"": ""}, ""
    lines = text.splitlines()
    for line, below in zip(lines, [*lines[1:], ""], strict=True):
        if line and re.fullmatch("-{3,}", below) and len(line) == len(below):
            name = line
            found[name] = ""
        elif not (name and not found[name] and re.fullmatch("-{3,}", line)):
            found[name] += f"{line}\n"
    return found


def names_in(section: str) -> list[str]:
    """Return the names that a section of parameters describes: its lines that are not indented."""
    terms = re.findall(r"^(?! )\S.*", section, re.MULTILINE)
    return [name.split(":")[0].strip().lstrip("*\\") for term in terms for name in term.split(",")]


def own_methods(cls: type) -> Iterator[tuple[str, FunctionType]]:
    """Yield the public methods that mnndask defines, not those that a class inherits from other libraries."""
    for name in dir(cls):
        value = inspect.getattr_static(cls, name)
        value = getattr(value, "__func__", value)
        public = not name.startswith("_") and isinstance(value, FunctionType)
        if public and value.__module__.startswith("mnndask"):
            yield name, value


def public_objects() -> dict[str, Any]:
    """Return functions and classes that users import, by name; errors are told apart by their class."""
    modules = [mnndask, *(getattr(mnndask, name) for name in mnndask.__all__)]
    return {
        f"{module.__name__}.{name}": getattr(module, name)
        for module in modules
        if isinstance(module, ModuleType)
        for name in module.__all__
        if not isinstance(getattr(module, name), ModuleType | str | Mapping)
    }


def faults(value: Any) -> list[str]:
    """Return what a public function or class, with its methods, lacks in its docstrings."""
    found = sections_of(inspect.getdoc(value) or "")
    out = faults_of_form(value)
    if not found.get("Notes", "").strip():
        out.append("has no Notes: say what its values are not for, or when they mislead")
    if ">>> " not in found.get("Examples", ""):
        out.append("has no Examples that run (>>>)")
    if not inspect.isclass(value):
        return out
    for name, method in own_methods(value):
        own = sections_of(inspect.getdoc(method) or "")
        out += [f"{name}: {fault}" for fault in faults_of_form(method, "self")]
        if not own.get("Notes", "").strip() and f":meth:`{name}`" not in found.get("Notes", ""):
            out.append(f"{name}: has no Notes, and those of the class do not name :meth:`{name}`")
        if ">>> " not in own.get("Examples", "") and f".{name}(" not in found.get("Examples", ""):
            out.append(f"{name}: has no Examples, and those of the class do not call .{name}(")
    return out


def faults_of_form(value: Any, *left_out: str) -> list[str]:
    """Return what is wrong with the summary, the parameters and the order of sections."""
    found = sections_of(inspect.getdoc(value) or "")
    expected = [name for name in inspect.signature(value).parameters if name not in left_out]
    described = names_in(found.get("Parameters", ""))
    out = [] if found[""].strip() else ["has no summary"]
    if described != expected:
        out.append(f"describes the parameters {described}, but takes {expected}")
    listed = [name for name in found if name]
    if listed != [name for name in SECTIONS if name in listed]:
        out.append(f"has its sections in the order {listed}")
    return out


@pytest.mark.parametrize("name", public_objects())
def test_public_objects_say_what_they_are_not_for_and_describe_all_parameters(name):
    value = public_objects()[name]
    if isinstance(value, type) and issubclass(value, MNNError):
        assert value.__dict__.get("__doc__"), f"{name} does not say when it is raised."
        return
    found = faults(value)
    assert not found, "\n".join(f"The docstring of {name} {fault}." for fault in found)


def complete(first, *others, last=None):
    """Return the first.

    Parameters
    ----------
    first
        Colon: here, and a comma, too.
    *others, last
        Ignored.

    Notes
    -----
    Not for the last.

    Examples
    --------
    >>> complete(1)
    1
    """
    return first


def test_a_complete_docstring_has_no_faults():
    assert faults(complete) == []


@pytest.mark.parametrize(
    ("old", "new", "fault"),
    [
        ("Notes\n-----\nNot for the last.\n\n", "", "has no Notes"),
        ("Not for the last.\n", "", "has no Notes"),
        (">>> complete(1)\n1", "complete(1)", "has no Examples"),
        ("*others, last\n    Ignored.\n", "", "describes the parameters"),
        ("first\n", "fist\n", "describes the parameters"),
        ("*others, last", "last, *others", "describes the parameters"),
        ("Examples\n--------\n", "Returns\n-------\nIt.\n\nExamples\n--------\n", "order"),
        ("Notes\n-----\n", "Note\n----\n", "has no Notes"),
        ("Return the first.\n", "", "has no summary"),
    ],
)
def test_the_check_notices_what_a_docstring_lacks(old, new, fault):
    text = inspect.getdoc(complete)
    assert old in text

    def function(first, *others, last=None):
        return first

    function.__doc__ = text.replace(old, new, 1)
    assert any(fault in one for one in faults(function))


def test_the_check_notices_a_method_without_notes_and_examples():
    class Holder:
        """Hold nothing.

        Notes
        -----
        :meth:`named` is not for the first.

        Examples
        --------
        >>> Holder().named(1)
        """

        def named(self, value):
            """Return it.

            Parameters
            ----------
            value
                It.
            """

        def forgotten(self):
            """Return nothing."""

    for method in (Holder.named, Holder.forgotten):
        method.__module__ = "mnndask.made_up"
    found = faults(Holder)
    assert len(found) == 2
    assert all(fault.startswith("forgotten: ") for fault in found)
