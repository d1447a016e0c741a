"""Reading users' objects and files, and writing results."""

from __future__ import annotations
