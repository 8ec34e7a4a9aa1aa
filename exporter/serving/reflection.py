"""What services and messages there are, for clients that know none, by gRPC's reflection."""

from collections.abc import Sequence
from typing import Any

from google.protobuf.descriptor_pb2 import FileDescriptorProto

from exporter.serving.descriptors import POOL, Message, declare, message, parsed

# Clients ask for the first, and those that are older for the second. Their messages are alike.
SERVICES = (
    "grpc.reflection.v1.ServerReflection",
    "grpc.reflection.v1alpha.ServerReflection",
)

PROTO = """
message ServerReflectionRequest {
  string host = 1;
  oneof message_request {
    string file_by_filename = 3;
    string file_containing_symbol = 4;
    ExtensionRequest file_containing_extension = 5;
    string all_extension_numbers_of_type = 6;
    string list_services = 7;
  }
}
message ExtensionRequest { string containing_type = 1; int32 extension_number = 2; }
message ServerReflectionResponse {
  string valid_host = 1;
  ServerReflectionRequest original_request = 2;
  oneof message_response {
    FileDescriptorResponse file_descriptor_response = 4;
    ExtensionNumberResponse all_extension_numbers_response = 5;
    ListServiceResponse list_services_response = 6;
    ErrorResponse error_response = 7;
  }
}
message FileDescriptorResponse { repeated bytes file_descriptor_proto = 1; }
message ExtensionNumberResponse { string base_type_name = 1; repeated int32 extension_number = 2; }
message ListServiceResponse { repeated ServiceResponse service = 1; }
message ServiceResponse { string name = 1; }
message ErrorResponse { int32 error_code = 1; string error_message = 2; }
service ServerReflection {
  rpc ServerReflectionInfo(stream ServerReflectionRequest)
      returns (stream ServerReflectionResponse);
}
"""

declare("grpc/reflection/v1/reflection.proto", "grpc.reflection.v1", PROTO)
declare("grpc/reflection/v1alpha/reflection.proto", "grpc.reflection.v1alpha", PROTO)

ServerReflectionRequest = message("grpc.reflection.v1.ServerReflectionRequest", __name__)
ServerReflectionResponse = message("grpc.reflection.v1.ServerReflectionResponse", __name__)

# The codes of gRPC, as numbers.
_INVALID_ARGUMENT = 3
_NOT_FOUND = 5


def reflect(body: bytes, services: Sequence[str]) -> bytes:
    """The answer to a `ServerReflectionRequest`.

    Args:
      body: the request.
      services: the names of those that there are.

    Raises:
      RequestError: if it is no such request.
    """
    request = parsed(ServerReflectionRequest, body)
    answer = ServerReflectionResponse(valid_host=request.host, original_request=request)
    try:
        _fill(answer, request, services)
    except KeyError:
        answer.error_response.error_code = _NOT_FOUND
        answer.error_response.error_message = "there is no such name here"
    written: bytes = answer.SerializeToString()
    return written


def _fill(answer: Message, request: Message, services: Sequence[str]) -> None:
    match request.WhichOneof("message_request"):
        case "list_services":
            for name in services:
                answer.list_services_response.service.add(name=name)
        case "file_by_filename":
            _fill_file(answer, POOL.FindFileByName(request.file_by_filename))
        case "file_containing_symbol":
            _fill_file(answer, POOL.FindFileContainingSymbol(request.file_containing_symbol))
        case "file_containing_extension":
            raise KeyError  # there are none
        case "all_extension_numbers_of_type":
            found = POOL.FindMessageTypeByName(request.all_extension_numbers_of_type)
            answer.all_extension_numbers_response.base_type_name = found.full_name
        case _:
            answer.error_response.error_code = _INVALID_ARGUMENT
            answer.error_response.error_message = "the request asks for nothing"


def _fill_file(answer: Message, file: Any) -> None:
    """Add a file. None of ours imports another."""
    proto = FileDescriptorProto()
    file.CopyToProto(proto)
    answer.file_descriptor_response.file_descriptor_proto.append(proto.SerializeToString())
