"""Stores and the matrices in them: zarr, HDF5 and object stores. Independent of any algorithm."""

from __future__ import annotations
