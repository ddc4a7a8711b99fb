"""The text of a file that came from outside: unpacked, and decoded by what its first bytes say."""

import codecs
import gzip
import io
import zlib
from pathlib import Path

from concord.bert.errors import InputError
from concord.bert.files import read_data

# UTF-32's mark begins with UTF-16's, and so comes first.
_MARKS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
_MOST_PACKED = 200  # times that a file's size may grow when it is unpacked, from this many bytes on:
_SMALL = 1 << 26


def read_text(path: Path, expected: str) -> str:
    """The text of a file: UTF-8, or UTF-16 or UTF-32 where it begins with their mark; unpacked where it is a .gz.

    InputError that names file and line, and what was `expected`, where it is unreadable, damaged or not such a text, or
    its first line has NUL bytes, as UTF-16 and UTF-32 without a mark have.
    """
    content = read_data(path, expected)
    if path.suffix.lower() == ".gz":
        content = _unpacked(path, content, expected)
    mark, encoding = next((one for one in _MARKS if content.startswith(one[0])), (b"", "utf-8"))
    if not mark and content.find(b"\0", 0, content.find(b"\n")) >= 0:
        raise InputError(
            f"{path}:1: NUL bytes, as in UTF-16 without a byte order mark, expected UTF-8; save the file in it"
        )
    try:
        return content[len(mark) :].decode(encoding)
    except UnicodeDecodeError as error:
        content = content[len(mark) :]
        line = content[: error.start].decode(encoding, "replace").count("\n") + 1
        name = encoding.upper().removesuffix("-LE").removesuffix("-BE")
        raise InputError(
            f"{path}:{line}: not {name} (byte {content[error.start]:#04x}), expected UTF-8; save the file in it"
        ) from None


def _unpacked(path: Path, content: bytes, expected: str) -> bytes:
    most = max(_SMALL, _MOST_PACKED * len(content))
    try:
        with gzip.GzipFile(fileobj=io.BytesIO(content)) as file:
            unpacked = file.read(most + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(f"{path}: not a whole gzip file ({error}), expected {expected}") from None
    if len(unpacked) > most:
        raise InputError(f"{path}: more than {_MOST_PACKED} times its size once unpacked; unpack it yourself first")
    return unpacked


def split_lines(text: str) -> list[str]:
    """The lines of a text that end with LF, CR LF, or CR alone, without their ends.

    A CR ends a line only where no LF does anywhere; str.splitlines would also cut at U+2028 and others that sentences
    may hold.
    """
    if "\n" not in text:
        return text.removesuffix("\r").split("\r")
    return [line.removesuffix("\r") for line in text.removesuffix("\n").split("\n")]
