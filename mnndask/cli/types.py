"""Parameter types of the command's options."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import click

from mnndask._choices import AUTOMATIC_ORDERS

if TYPE_CHECKING:
    from mnndask.stores.location import Location


class StoreLocation(click.ParamType):  # type: ignore[type-arg]
    """A local path, or a URL."""

    name = "PATH|URL"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Location:
        """Convert a path or URL to a location."""
        if not value:
            self.fail("the path is empty.", param, ctx)
        from mnndask.stores.location import Location

        return Location.of(value)


class CommaList(click.ParamType):  # type: ignore[type-arg]
    """Names separated by commas."""

    name = "NAME,NAME,..."

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> list[str]:
        """Split at commas."""
        return value if isinstance(value, list) else [part.strip() for part in value.split(",")]


class Columns(click.ParamType):  # type: ignore[type-arg]
    """A column, or several separated by commas."""

    name = "COLUMN[,COLUMN,...]"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> str | list[str]:
        """Split at commas, if there are any."""
        if not isinstance(value, str) or "," not in value:
            return value
        return [part.strip() for part in value.split(",")]


class ColumnValues(click.ParamType):  # type: ignore[type-arg]
    """A boolean column, or a column and values in it."""

    name = "COLUMN[=VALUE,...]"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> str | dict[str, list[str]]:
        """Split at the equals sign and at commas."""
        if not isinstance(value, str) or "=" not in value:
            return value
        column, values = value.split("=", 1)
        return {column.strip(): [part.strip() for part in values.split(",")]}


class MergeOrder(click.ParamType):  # type: ignore[type-arg]
    """Names separated by commas, nested lists in JSON, or an automatic order."""

    name = "NAME,NAME,...|JSON|auto|share|tree"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Convert to a name of an automatic order, or to (nested) lists."""
        if not isinstance(value, str) or value in AUTOMATIC_ORDERS:
            return value
        if not value.lstrip().startswith("["):
            return [part.strip() for part in value.split(",")]
        try:
            return json.loads(value)
        except json.JSONDecodeError:
            self.fail(f'{value!r} is not JSON such as [["a", "b"], ["c", "d"]].', param, ctx)


class NumberList(click.ParamType):  # type: ignore[type-arg]
    """Numbers separated by commas."""

    name = "N,N,..."

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> list[float]:
        """Split at commas."""
        try:
            return value if isinstance(value, list) else [float(part) for part in value.split(",")]
        except ValueError:
            self.fail(f"{value!r} is not a list of numbers such as 1.0,0.3.", param, ctx)


class SketchSize(click.ParamType):  # type: ignore[type-arg]
    """A number of cells, ``auto`` or ``none``."""

    name = "N|auto|none"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> int | str | None:
        """Convert a number of cells, ``auto`` or ``none``."""
        if value in ("auto", "none"):
            return None if value == "none" else "auto"
        try:
            return int(value)
        except ValueError:
            self.fail(f"{value!r} is not a number of cells, auto or none.", param, ctx)
