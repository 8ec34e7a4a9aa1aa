"""The messages of the Open Inference Protocol over gRPC, in the forms of Triton and KServe."""

from exporter.serving.descriptors import declare, message

PACKAGE = "inference"
SERVICE = "inference.GRPCInferenceService"

# KServe and Triton agree on everything but the requests that load and unload: what is the model's
# name to KServe, to Triton is the repository's, which nobody sets. The answers to these are
# KServe's; to Triton they are empty. Methods of Triton that are missing here are not offered.
PROTO = """
message ServerLiveRequest {}
message ServerLiveResponse { bool live = 1; }
message ServerReadyRequest {}
message ServerReadyResponse { bool ready = 1; }
message ModelReadyRequest { string name = 1; string version = 2; }
message ModelReadyResponse { bool ready = 1; }
message ServerMetadataRequest {}
message ServerMetadataResponse {
  string name = 1;
  string version = 2;
  repeated string extensions = 3;
}
message ModelMetadataRequest { string name = 1; string version = 2; }
message ModelMetadataResponse {
  message TensorMetadata { string name = 1; string datatype = 2; repeated int64 shape = 3; }
  string name = 1;
  repeated string versions = 2;
  string platform = 3;
  repeated TensorMetadata inputs = 4;
  repeated TensorMetadata outputs = 5;
}
message InferParameter {
  oneof parameter_choice {
    bool bool_param = 1;
    int64 int64_param = 2;
    string string_param = 3;
    double double_param = 4;
    uint64 uint64_param = 5;
  }
}
message InferTensorContents {
  repeated bool bool_contents = 1;
  repeated int32 int_contents = 2;
  repeated int64 int64_contents = 3;
  repeated uint32 uint_contents = 4;
  repeated uint64 uint64_contents = 5;
  repeated float fp32_contents = 6;
  repeated double fp64_contents = 7;
  repeated bytes bytes_contents = 8;
}
message ModelInferRequest {
  message InferInputTensor {
    string name = 1;
    string datatype = 2;
    repeated int64 shape = 3;
    map<string, InferParameter> parameters = 4;
    InferTensorContents contents = 5;
  }
  message InferRequestedOutputTensor {
    string name = 1;
    map<string, InferParameter> parameters = 2;
  }
  string model_name = 1;
  string model_version = 2;
  string id = 3;
  map<string, InferParameter> parameters = 4;
  repeated InferInputTensor inputs = 5;
  repeated InferRequestedOutputTensor outputs = 6;
  repeated bytes raw_input_contents = 7;
}
message ModelInferResponse {
  message InferOutputTensor {
    string name = 1;
    string datatype = 2;
    repeated int64 shape = 3;
    map<string, InferParameter> parameters = 4;
    InferTensorContents contents = 5;
  }
  string model_name = 1;
  string model_version = 2;
  string id = 3;
  map<string, InferParameter> parameters = 4;
  repeated InferOutputTensor outputs = 5;
  repeated bytes raw_output_contents = 6;
}
message ModelRepositoryParameter {
  oneof parameter_choice {
    bool bool_param = 1;
    int64 int64_param = 2;
    string string_param = 3;
    bytes bytes_param = 4;
  }
}
message RepositoryIndexRequest { string repository_name = 1; bool ready = 2; }
message RepositoryIndexResponse {
  message ModelIndex { string name = 1; string version = 2; string state = 3; string reason = 4; }
  repeated ModelIndex models = 1;
}
message RepositoryModelLoadRequest {
  string repository_name = 1;
  string model_name = 2;
  map<string, ModelRepositoryParameter> parameters = 3;
}
message RepositoryModelLoadResponse { string model_name = 1; bool isLoaded = 2; }
message RepositoryModelUnloadRequest {
  string repository_name = 1;
  string model_name = 2;
  map<string, ModelRepositoryParameter> parameters = 3;
}
message RepositoryModelUnloadResponse { string model_name = 1; bool isUnloaded = 2; }
service GRPCInferenceService {
  rpc ServerLive(ServerLiveRequest) returns (ServerLiveResponse);
  rpc ServerReady(ServerReadyRequest) returns (ServerReadyResponse);
  rpc ModelReady(ModelReadyRequest) returns (ModelReadyResponse);
  rpc ServerMetadata(ServerMetadataRequest) returns (ServerMetadataResponse);
  rpc ModelMetadata(ModelMetadataRequest) returns (ModelMetadataResponse);
  rpc ModelInfer(ModelInferRequest) returns (ModelInferResponse);
  rpc RepositoryIndex(RepositoryIndexRequest) returns (RepositoryIndexResponse);
  rpc RepositoryModelLoad(RepositoryModelLoadRequest) returns (RepositoryModelLoadResponse);
  rpc RepositoryModelUnload(RepositoryModelUnloadRequest) returns (RepositoryModelUnloadResponse);
}
"""

declare("exporter/inference.proto", PACKAGE, PROTO)

# Ray pickles messages, so each has its place in this module.
ServerLiveRequest = message("inference.ServerLiveRequest", __name__)
ServerLiveResponse = message("inference.ServerLiveResponse", __name__)
ServerReadyRequest = message("inference.ServerReadyRequest", __name__)
ServerReadyResponse = message("inference.ServerReadyResponse", __name__)
ModelReadyRequest = message("inference.ModelReadyRequest", __name__)
ModelReadyResponse = message("inference.ModelReadyResponse", __name__)
ServerMetadataRequest = message("inference.ServerMetadataRequest", __name__)
ServerMetadataResponse = message("inference.ServerMetadataResponse", __name__)
ModelMetadataRequest = message("inference.ModelMetadataRequest", __name__)
ModelMetadataResponse = message("inference.ModelMetadataResponse", __name__)
InferParameter = message("inference.InferParameter", __name__)
InferTensorContents = message("inference.InferTensorContents", __name__)
ModelInferRequest = message("inference.ModelInferRequest", __name__)
ModelInferResponse = message("inference.ModelInferResponse", __name__)
ModelRepositoryParameter = message("inference.ModelRepositoryParameter", __name__)
RepositoryIndexRequest = message("inference.RepositoryIndexRequest", __name__)
RepositoryIndexResponse = message("inference.RepositoryIndexResponse", __name__)
RepositoryModelLoadRequest = message("inference.RepositoryModelLoadRequest", __name__)
RepositoryModelLoadResponse = message("inference.RepositoryModelLoadResponse", __name__)
RepositoryModelUnloadRequest = message("inference.RepositoryModelUnloadRequest", __name__)
RepositoryModelUnloadResponse = message("inference.RepositoryModelUnloadResponse", __name__)
