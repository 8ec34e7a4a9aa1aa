"""Messages of protobuf, declared as text and kept in a pool of our own.

Generated files put their messages into the pool of the process, where those of other libraries that
speak the same protocol have the same names, and they refuse releases of protobuf that are older
than whatever generated them. Ours do neither.
"""

import re
from collections.abc import Iterator
from typing import Any

from google.protobuf.descriptor_pb2 import (
    DescriptorProto,
    EnumDescriptorProto,
    FieldDescriptorProto,
    FileDescriptorProto,
    ServiceDescriptorProto,
)
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message import DecodeError
from google.protobuf.message_factory import GetMessageClass

from exporter.serving.errors import RequestError

# A message, or the class of one. They are made when the program runs: no type knows their fields.
Message = Any

POOL = DescriptorPool()

_WORD = re.compile(r"[\w.]+|[{}=;<>,()]")
_SCALARS = frozenset(
    ("bool", "bytes", "double", "float", "int32", "int64", "string", "uint32", "uint64")
)


def declare(path: str, package: str, text: str) -> None:
    """Add the messages and services of a text in the language of `.proto` files to the pool.

    Args:
      path: the name of the file that it would be.
      package: what the names begin with.
      text: messages, with enumerations and others inside, and services. Nothing else of the
        language is known, not even comments.
    """
    file = FileDescriptorProto(name=path, package=package, syntax="proto3")
    words = iter(_WORD.findall(text))
    for kind in words:
        if kind == "message":
            _message(words, file.message_type.add(), f".{package}")
        else:
            _service(words, file.service.add(), f".{package}")
    POOL.AddSerializedFile(file.SerializeToString())


def message(name: str, module: str) -> Message:
    """The class of a message of the pool, whose values `pickle` finds in a module.

    Args:
      name: with its package.
      module: where the class is an attribute under the last part of the name.
    """
    found: Message = GetMessageClass(POOL.FindMessageTypeByName(name))
    found.__module__, found.__qualname__ = module, name.rpartition(".")[2]
    return found


def parsed(kind: Message, body: bytes) -> Message:
    """The message that these bytes are.

    Raises:
      RequestError: if they are none of this kind.
    """
    try:
        return kind.FromString(body)
    except DecodeError as error:
        raise RequestError(f"the message is not a {kind.__name__}: {error}.") from error


def _message(words: Iterator[str], proto: DescriptorProto, outer: str) -> None:
    proto.name = next(words)
    name = f"{outer}.{proto.name}"
    _expect(words, "{")
    while (word := next(words)) != "}":
        if word == "message":
            _message(words, proto.nested_type.add(), name)
        elif word == "enum":
            _enumeration(words, proto.enum_type.add())
        elif word == "oneof":
            proto.oneof_decl.add(name=next(words))
            _expect(words, "{")
            while (kind := next(words)) != "}":
                _field(words, kind, proto.field.add(oneof_index=len(proto.oneof_decl) - 1))
        elif word == "map":
            _map(words, proto, name)
        else:
            _field(words, word, proto.field.add())


def _field(words: Iterator[str], kind: str, field: FieldDescriptorProto) -> None:
    field.label = field.LABEL_OPTIONAL
    if kind == "repeated":
        field.label, kind = field.LABEL_REPEATED, next(words)
    if kind in _SCALARS:
        field.type = getattr(field, f"TYPE_{kind.upper()}")
    else:
        field.type_name = kind  # the pool finds it, and whether it is an enumeration
    field.name = next(words)
    _expect(words, "=")
    field.number = int(next(words))
    _expect(words, ";")


def _map(words: Iterator[str], proto: DescriptorProto, name: str) -> None:
    """A map, which is a repeated message of a key and a value."""
    _expect(words, "<", "string", ",")
    value = next(words)
    _expect(words, ">")
    field = proto.field.add(name=next(words), label=FieldDescriptorProto.LABEL_REPEATED)
    entry = proto.nested_type.add(name=f"{field.name.title().replace('_', '')}Entry")
    entry.options.map_entry = True
    _field(iter(("key", "=", "1", ";")), "string", entry.field.add())
    _field(iter(("value", "=", "2", ";")), value, entry.field.add())
    field.type_name = f"{name}.{entry.name}"
    _expect(words, "=")
    field.number = int(next(words))
    _expect(words, ";")


def _enumeration(words: Iterator[str], proto: EnumDescriptorProto) -> None:
    proto.name = next(words)
    _expect(words, "{")
    while (word := next(words)) != "}":
        _expect(words, "=")
        proto.value.add(name=word, number=int(next(words)))
        _expect(words, ";")


def _service(words: Iterator[str], proto: ServiceDescriptorProto, package: str) -> None:
    proto.name = next(words)
    _expect(words, "{")
    while next(words) == "rpc":
        method = proto.method.add(name=next(words))
        method.client_streaming, method.input_type = _operand(words, package)
        _expect(words, "returns")
        method.server_streaming, method.output_type = _operand(words, package)
        _expect(words, ";")


def _operand(words: Iterator[str], package: str) -> tuple[bool, str]:
    _expect(words, "(")
    name = next(words)
    is_stream = name == "stream"
    name = next(words) if is_stream else name
    _expect(words, ")")
    return is_stream, f"{package}.{name}"


def _expect(words: Iterator[str], *expected: str) -> None:
    for one in expected:
        found = next(words)
        assert found == one, f"expected {one!r}, found {found!r}"
