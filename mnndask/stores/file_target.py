"""An output that is one file on this machine: written beside its destination, and renamed when complete."""

from __future__ import annotations

import os
from collections.abc import Sequence

from mnndask.errors import InputError
from mnndask.stores.durable import sync_file, sync_folder
from mnndask.stores.local_target import LocalTarget
from mnndask.stores.location import Location


class FileTarget(LocalTarget):
    """A local file, written to ``<path>.partial``. What a stopped run leaves there cannot be continued."""

    def unfinished(self) -> bool:
        """Return False: there is nothing that can be continued."""
        return False

    def clear(self) -> None:
        """Remove an unfinished output."""
        self.partial.unlink(missing_ok=True)

    def check(self, inputs: Sequence[Location]) -> None:
        """Refuse a destination that cannot be written, or that is, contains or is inside an input."""
        super().check(inputs)
        if self.path.is_dir() or self.partial.is_dir():
            what = f"The output {self.path} is to be a file, but there is a folder."
            raise InputError(what, "Remove it, or write to another path.")

    def check_older(self, *, proceed: bool, ours: bool) -> None:
        """Do nothing: a file takes the place of another at once."""

    def finish(self, *, overwrite: bool) -> None:
        """Sync the complete file and rename it to its final path."""
        sync_file(self.partial)
        os.replace(self.partial, self.path)
        sync_folder(self.path.parent)
