"""What a file is that no model needs: pickles, executables and source, known by how they begin.

Nothing is unpickled, unpacked or imported. A pickle is read as a list of instructions.
"""

import io
import pickletools
import re
import struct
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path

# So much of a file is looked at.
_HEAD_BYTES = 2**16

# So many instructions of a pickle, and so many files of an archive.
_MAX_INSTRUCTIONS = 20_000
_MAX_MEMBERS = 10_000

# So many names that a pickle imports are shown.
_MAX_NAMES = 5

_EXECUTABLES = {
    b"\x7fELF": "an ELF executable or library",
    b"\xfe\xed\xfa\xce": "a Mach-O executable or library",
    b"\xfe\xed\xfa\xcf": "a Mach-O executable or library",
    b"\xce\xfa\xed\xfe": "a Mach-O executable or library",
    b"\xcf\xfa\xed\xfe": "a Mach-O executable or library",
    b"\xca\xfe\xba\xbe": "a universal Mach-O executable, or Java bytecode",
    b"\x00asm": "WebAssembly",
    b"!<arch>\n": "an archive of object files",
    b"#!": "a script",
}

# By the end of a name alone: what Python or a system would run or import, whatever is in it.
_SUFFIXES = {
    **dict.fromkeys((".py", ".pyw", ".pyi", ".pth"), "Python source"),
    **dict.fromkeys((".pyc", ".pyo"), "Python bytecode"),
    **dict.fromkeys((".pkl", ".pickle", ".joblib", ".dill"), "a pickle, by its name"),
    **dict.fromkeys((".so", ".dll", ".dylib", ".pyd", ".exe"), "a native library, by its name"),
    **dict.fromkeys((".sh", ".bat", ".ps1"), "a script, by its name"),
    **dict.fromkeys((".whl", ".egg", ".jar"), "a package of code, by its name"),
}

_SOURCE = re.compile(
    rb"^(from [\w.]+ import [\w*(]|import [\w.]+( as \w+)?[ \t\r]*$|def \w+\(.*:[ \t\r]*$"
    rb"|class \w+(\(.*\))?:[ \t\r]*$|[ \t]*(exec|eval|__import__|os\.system|subprocess\.\w+)\()",
    re.MULTILINE,
)

_IMPORTING = frozenset({"GLOBAL", "STACK_GLOBAL", "INST"})
_TEXTS = frozenset({"SHORT_BINUNICODE", "BINUNICODE", "UNICODE", "BINUNICODE8"})


def payload_of(path: Path) -> str | None:
    """What code or pickle a file is or holds, or `None` if it looks like neither.

    Raises:
      OSError: if it cannot be read.
    """
    with path.open("rb") as file:
        head = file.read(_HEAD_BYTES)
    found = _SUFFIXES.get(path.suffix.lower()) or _content(head)
    if found is None and head.startswith(b"\x1f\x8b"):
        found = _content(_unzipped(head))
        found = found and f"{found}, compressed with gzip"
    if found is None and head.startswith(b"PK\x03\x04"):
        found = _archived(path)
    return found


def _unzipped(head: bytes) -> bytes:
    """The beginning of what was compressed. It is bounded, whatever is in the rest."""
    try:
        return zlib.decompressobj(wbits=31).decompress(head, _HEAD_BYTES)
    except zlib.error:
        return b""


def _content(head: bytes) -> str | None:
    for magic, what in _EXECUTABLES.items():
        if head.startswith(magic):
            return what
    if _is_windows(head):
        return "a Windows executable or library"
    if head[2:4] == b"\r\n" and b"\xe3" in head[4:32]:
        return "Python bytecode"
    if head.startswith(b"\x93NUMPY") and re.search(rb"'descr': '?[|<>=]?O", head[:256]):
        return "a NumPy file of Python objects, which is a pickle"
    return _pickle(head) or _source(head)


def _is_windows(head: bytes) -> bool:
    if not head.startswith(b"MZ") or len(head) < 64:
        return False
    (start,) = struct.unpack_from("<I", head, 60)
    return head[start : start + 4] == b"PE\0\0"


def _pickle(head: bytes) -> str | None:
    """Whether a file is a pickle, with the names that it would import.

    One of an older protocol is text, and has to import something to be told from other text.
    """
    names, is_whole = _instructions(head)
    is_binary = re.match(rb"\x80[\x02-\x05]", head) is not None
    is_framed = re.match(rb"\x80[\x04\x05]\x95.{5}\0\0\0", head, re.DOTALL) is not None
    if not names and not is_framed and not (is_binary and is_whole):
        return None
    shown = ", ".join(sorted(names)[:_MAX_NAMES])
    return f"a pickle that imports {shown}" if names else "a pickle"


def _instructions(head: bytes) -> tuple[set[str], bool]:
    """The names that a pickle imports, and whether it ends. What is no pickle has none."""
    names: set[str] = set()
    texts: list[str] = ["", ""]
    memo: dict[object, str] = {}
    stream = io.BytesIO(head)
    try:
        for count, (code, argument, _) in enumerate(pickletools.genops(stream)):
            if code.name in _TEXTS:
                texts.append(str(argument))
            elif code.name in ("MEMOIZE", "BINPUT", "LONG_BINPUT"):
                memo[len(memo) if argument is None else argument] = texts[-1]
            elif code.name in ("BINGET", "LONG_BINGET"):
                texts.append(memo.get(argument, ""))
            elif code.name in _IMPORTING:
                name = str(argument).replace(" ", ".") if argument else ".".join(texts[-2:])
                names.update(re.findall(r"\A[A-Za-z_][\w.]{2,100}\Z", name))
            if count >= _MAX_INSTRUCTIONS:
                return names, False
    except Exception:  # noqa: BLE001  # no pickle, or a damaged one: genops has no error of its own
        return names, False
    return names, stream.read(1) in (b"", b"\x80")  # several may follow one another


def _source(head: bytes) -> str | None:
    if b"\0" in head:
        return None
    try:
        head[:-4].decode()  # a letter may be cut in two where the beginning ends
    except UnicodeDecodeError:
        return None
    found = _SOURCE.search(head)
    if found is None:
        return None
    line = found[0].decode(errors="replace").strip()
    return f"text that reads like Python: {line[:60]!r}"


def _archived(path: Path) -> str | None:
    """What an archive holds that is a payload by its name, or by its header in an `.npz`."""
    try:
        with zipfile.ZipFile(path) as archive:
            return next(_members(archive), None)
    except Exception:  # noqa: BLE001  # each way to compress has errors of its own
        return "a damaged ZIP archive"


def _members(archive: zipfile.ZipFile) -> Iterator[str]:
    for member in archive.infolist()[:_MAX_MEMBERS]:
        found = _SUFFIXES.get(Path(member.filename).suffix.lower())
        if found is None and member.filename.endswith(".npy"):
            with archive.open(member) as file:
                found = _content(file.read(256))
        if found:
            yield f"a ZIP archive with {member.filename!r}: {found}"
