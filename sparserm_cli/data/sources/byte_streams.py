"""Read a file's text as UTF-8 bytes; gzip is decompressed, and UTF-16 with a byte order mark is recoded."""

import codecs
import gzip
import io
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sparserm_cli.errors import BadInputError

_BLOCK = 2**16
_MARKS = {codecs.BOM_UTF16_LE: "utf-16-le", codecs.BOM_UTF16_BE: "utf-16-be"}


@contextmanager
def text_bytes(path: Path) -> Iterator[io.BufferedIOBase]:
    """Open the text of a file as a stream of UTF-8 bytes, and close it at the end.

    Raises:
        BadInputError: the file is cut short or damaged, which may be noticed only during reading.

    """
    with _opened(path) as stream:
        try:
            mark = stream.read(2)
            encoding = _MARKS.get(mark)
            stream.seek(2 if encoding else 0)
            yield stream if encoding is None else io.BufferedReader(_Recoded(stream, encoding))
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            found = "a cut one" if isinstance(error, EOFError) else f"a damaged one: {str(error).lower()}"
            where = f"{path}:after byte {stream.tell()} of the text"
            raise BadInputError(where, "a whole gzip file", found, "copy the file again") from None
        except UnicodeDecodeError as error:
            found = f"something else: {error.reason}"
            raise BadInputError(str(path), "UTF-16 text", found, "save the file as UTF-8") from None


def _opened(path: Path) -> io.BufferedIOBase:
    return gzip.open(path, "rb") if path.name.lower().endswith(".gz") else path.open("rb")


class _Recoded(io.RawIOBase):
    """UTF-16 text as UTF-8 bytes.

    Args:
        stream: the text, without its byte order mark.
        encoding: the encoding of the stream.

    """

    def __init__(self, stream: io.BufferedIOBase, encoding: str) -> None:
        self._stream, self._rest = stream, b""
        self._decoder = codecs.getincrementaldecoder(encoding)()

    def readable(self) -> bool:
        """Return True, because the stream can be read."""
        return True

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]  # bytes only
        """Fill the buffer with the next bytes and return their number, which is 0 at the end."""
        while not self._rest:
            block = self._stream.read(_BLOCK)
            self._rest = self._decoder.decode(block, final=not block).encode()
            if not block:
                break
        size = min(len(buffer), len(self._rest))
        buffer[:size], self._rest = self._rest[:size], self._rest[size:]
        return size
