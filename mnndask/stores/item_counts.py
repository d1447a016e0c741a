"""Chunks of texts state how many they contain; another number than their shape's is an error.

numcodecs allocates 8 bytes for each text that the first bytes of a chunk state, up to 34 GB.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import zarr
from zarr import codecs
from zarr.abc.codec import ArrayBytesCodec
from zarr.core.array_spec import ArraySpec
from zarr.core.buffer import Buffer, NDBuffer
from zarr.core.group import ConsolidatedMetadata

FILTERS = {"vlen-utf8", "vlen-bytes"}  # zarr 3 opens no array with another object codec


class ItemCountError(Exception):
    """A chunk states another number of items than its shape has; `path` is that of its array."""

    def __init__(self, path: str, counts: str, chunk: str = "") -> None:
        super().__init__(f"{chunk or f'a chunk of {path}'} states {counts}")
        self.path, self.counts = path, counts


def check_count(data: Any, n_items: int, path: str) -> None:
    """Compare the number in the first four bytes of a chunk with the number of its items."""
    stated = int.from_bytes(memoryview(data).cast("B")[:4], "little")
    if stated != n_items:
        raise ItemCountError(path, f"{stated:,} texts, not {n_items:,}")


@dataclass(frozen=True)
class CountedFilter:
    """A filter of zarr 2 for chunks of `n_items` texts."""

    filter: Any
    n_items: int
    path: str
    codec_id = "vlen"

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> CountedFilter:
        """Not supported: no metadata names this filter."""
        raise NotImplementedError(config)

    def get_config(self) -> Any:
        """Return the configuration of the filter itself."""
        return self.filter.get_config()

    def encode(self, buf: Any) -> Any:
        """Return texts as bytes."""
        return self.filter.encode(buf)

    def decode(self, buf: Any, out: Any = None) -> Any:
        """Return texts if there are as many as stated."""
        check_count(buf, self.n_items, self.path)
        return self.filter.decode(buf, out)


@dataclass(frozen=True)
class _Counted(ArrayBytesCodec):
    """A codec of zarr 3 that compares the number of texts with the shape of a chunk."""

    path: str = ""

    def _decode_sync(self, chunk_data: Buffer, chunk_spec: ArraySpec) -> NDBuffer:  # not in zarr 3.1.4
        check_count(chunk_data.as_array_like(), math.prod(chunk_spec.shape), self.path)
        decode: Any = super()._decode_sync  # type: ignore[misc]
        return decode(chunk_data, chunk_spec)  # type: ignore[no-any-return]

    async def _decode_single(self, chunk_data: Buffer, chunk_spec: ArraySpec) -> NDBuffer:
        check_count(chunk_data.as_array_like(), math.prod(chunk_spec.shape), self.path)
        return await super()._decode_single(chunk_data, chunk_spec)


# zarr accepts codecs of texts by the names of their classes.


@dataclass(frozen=True)
class VLenUTF8Codec(_Counted, codecs.VLenUTF8Codec):
    """For texts."""


@dataclass(frozen=True)
class VLenBytesCodec(_Counted, codecs.VLenBytesCodec):
    """For bytes."""


def with_counts(stored: zarr.Array[Any] | zarr.Group) -> Any:
    """Return the metadata of an array or group, and of all below, with codecs that check numbers of texts."""
    metadata: Any = stored.metadata
    if isinstance(stored, zarr.Group):
        members = {name: with_counts(member) for name, member in stored.members()}
        return replace(metadata, consolidated_metadata=ConsolidatedMetadata(metadata=members))
    if stored.metadata.zarr_format == 3:
        return replace(metadata, codecs=_counted(metadata.codecs, stored.path))
    n_items = math.prod(metadata.chunks)
    known = metadata.filters or ()
    filters = [CountedFilter(f, n_items, stored.path) if f.codec_id in FILTERS else f for f in known]
    return replace(metadata, filters=filters)


def _counted(given: Iterable[Any], path: str) -> tuple[Any, ...]:
    return tuple(_counted_codec(codec, path) for codec in given)


def _counted_codec(codec: Any, path: str) -> Any:
    if isinstance(codec, codecs.ShardingCodec):
        return replace(codec, codecs=_counted(codec.codecs, path))
    if isinstance(codec, codecs.VLenUTF8Codec):
        return VLenUTF8Codec(path=path)
    return VLenBytesCodec(path=path) if isinstance(codec, codecs.VLenBytesCodec) else codec


def has_texts(array: zarr.Array[Any]) -> bool:
    """Whether chunks of an array state how many texts they contain."""
    return array.dtype.kind in "OT"
