"""Unpacks gzip, bzip2 and xz as a stream, up to what a source may hold: a kilobyte may unpack to gigabytes."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
from typing import Any

from regraft.reading.lines import Left

XZ_MEMORY = 256 << 20
"""Bytes that unpacking xz may take: `xz -9` needs 65 MiB, and a header may ask for 4 GiB."""
_PACKED_BYTES = 64 << 10


class Unpacked:
    """The bytes of a file of any suffix, read from its beginning, perhaps several times."""

    def __init__(self, file: Any, suffix: str, left: Left) -> None:
        if suffix.endswith(".gz"):
            file = gzip.GzipFile(fileobj=file)
        elif suffix.endswith(".bz2"):
            file = bz2.BZ2File(file)
        elif suffix.endswith(".xz"):
            file = io.BufferedReader(_Xz(file), 1 << 20)
        self._file, self._left = file, left
        self._at = self._furthest = 0

    def read(self, size: int = -1) -> bytes:
        """Raises BadInput where the source holds more than it may."""
        content: bytes = self._file.read(size)
        self._at += len(content)
        if self._at > self._furthest:
            self._left.take(size=self._at - self._furthest)
            self._furthest = self._at
        return content

    def seek(self, at: int) -> None:
        self._file.seek(at)
        self._at = at


class _Xz(io.RawIOBase):
    """As lzma.open, which cannot be told how much memory a file may ask for."""

    def __init__(self, file: Any) -> None:
        self._file = file
        self._begin()

    def _begin(self) -> None:
        self._waiting = b""
        self._stream = lzma.LZMADecompressor(memlimit=XZ_MEMORY)

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, at: int, whence: int = 0) -> int:
        if at or whence:
            raise io.UnsupportedOperation("a packed file is read from its beginning")
        self._begin()
        return int(self._file.seek(0))

    def tell(self) -> int:
        return 0

    def readinto(self, into: Any) -> int:
        while True:
            if self._stream.eof:
                packed = self._stream.unused_data or self._packed()
                while packed and not packed.strip(b"\0"):  # streams may be padded
                    packed = self._packed()
                if not packed:
                    return 0
                self._begin()
                self._waiting = packed.lstrip(b"\0")
            if self._stream.needs_input:
                packed, self._waiting = self._waiting or self._packed(), b""
                if not packed:
                    raise EOFError("Compressed file ended before the end-of-stream marker was reached")
            else:
                packed = b""
            if content := self._stream.decompress(packed, len(into)):
                into[: len(content)] = content
                return len(content)

    def _packed(self) -> bytes:
        content: bytes = self._file.read(_PACKED_BYTES)
        return content
