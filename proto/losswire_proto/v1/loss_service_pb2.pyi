from losswire_proto.v1 import options_pb2 as _options_pb2
from losswire_proto.v1 import tensor_pb2 as _tensor_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Destinations(_message.Message):
    __slots__ = ("per_example", "grad_labels", "output", "grad_logits")
    PER_EXAMPLE_FIELD_NUMBER: _ClassVar[int]
    GRAD_LABELS_FIELD_NUMBER: _ClassVar[int]
    OUTPUT_FIELD_NUMBER: _ClassVar[int]
    GRAD_LOGITS_FIELD_NUMBER: _ClassVar[int]
    per_example: _tensor_pb2.RegionSlice
    grad_labels: _tensor_pb2.RegionSlice
    output: _tensor_pb2.RegionSlice
    grad_logits: _tensor_pb2.RegionSlice
    def __init__(self, per_example: _Optional[_Union[_tensor_pb2.RegionSlice, _Mapping]] = ..., grad_labels: _Optional[_Union[_tensor_pb2.RegionSlice, _Mapping]] = ..., output: _Optional[_Union[_tensor_pb2.RegionSlice, _Mapping]] = ..., grad_logits: _Optional[_Union[_tensor_pb2.RegionSlice, _Mapping]] = ...) -> None: ...

class ComputeRequest(_message.Message):
    __slots__ = ("options", "sample_weight", "class_weight", "pos_weight", "destinations", "labels", "logits")
    OPTIONS_FIELD_NUMBER: _ClassVar[int]
    SAMPLE_WEIGHT_FIELD_NUMBER: _ClassVar[int]
    CLASS_WEIGHT_FIELD_NUMBER: _ClassVar[int]
    POS_WEIGHT_FIELD_NUMBER: _ClassVar[int]
    DESTINATIONS_FIELD_NUMBER: _ClassVar[int]
    LABELS_FIELD_NUMBER: _ClassVar[int]
    LOGITS_FIELD_NUMBER: _ClassVar[int]
    options: _options_pb2.LossOptions
    sample_weight: _tensor_pb2.Tensor
    class_weight: _tensor_pb2.Tensor
    pos_weight: _tensor_pb2.Tensor
    destinations: Destinations
    labels: _tensor_pb2.Tensor
    logits: _tensor_pb2.Tensor
    def __init__(self, options: _Optional[_Union[_options_pb2.LossOptions, _Mapping]] = ..., sample_weight: _Optional[_Union[_tensor_pb2.Tensor, _Mapping]] = ..., class_weight: _Optional[_Union[_tensor_pb2.Tensor, _Mapping]] = ..., pos_weight: _Optional[_Union[_tensor_pb2.Tensor, _Mapping]] = ..., destinations: _Optional[_Union[Destinations, _Mapping]] = ..., labels: _Optional[_Union[_tensor_pb2.Tensor, _Mapping]] = ..., logits: _Optional[_Union[_tensor_pb2.Tensor, _Mapping]] = ...) -> None: ...

class ComputeResponse(_message.Message):
    __slots__ = ("loss", "per_example", "logsumexp", "argmax", "entropy", "grad_labels", "output", "grad_logits")
    LOSS_FIELD_NUMBER: _ClassVar[int]
    PER_EXAMPLE_FIELD_NUMBER: _ClassVar[int]
    LOGSUMEXP_FIELD_NUMBER: _ClassVar[int]
    ARGMAX_FIELD_NUMBER: _ClassVar[int]
    ENTROPY_FIELD_NUMBER: _ClassVar[int]
    GRAD_LABELS_FIELD_NUMBER: _ClassVar[int]
    OUTPUT_FIELD_NUMBER: _ClassVar[int]
    GRAD_LOGITS_FIELD_NUMBER: _ClassVar[int]
    loss: _tensor_pb2.Tensor
    per_example: _tensor_pb2.Tensor
    logsumexp: _tensor_pb2.Tensor
    argmax: _tensor_pb2.Tensor
    entropy: _tensor_pb2.Tensor
    grad_labels: _tensor_pb2.Tensor
    output: _tensor_pb2.Tensor
    grad_logits: _tensor_pb2.Tensor
    def __init__(self, loss: _Optional[_Union[_tensor_pb2.Tensor, _Mapping]] = ..., per_example: _Optional[_Union[_tensor_pb2.Tensor, _Mapping]] = ..., logsumexp: _Optional[_Union[_tensor_pb2.Tensor, _Mapping]] = ..., argmax: _Optional[_Union[_tensor_pb2.Tensor, _Mapping]] = ..., entropy: _Optional[_Union[_tensor_pb2.Tensor, _Mapping]] = ..., grad_labels: _Optional[_Union[_tensor_pb2.Tensor, _Mapping]] = ..., output: _Optional[_Union[_tensor_pb2.Tensor, _Mapping]] = ..., grad_logits: _Optional[_Union[_tensor_pb2.Tensor, _Mapping]] = ...) -> None: ...

class ComputeStreamRequest(_message.Message):
    __slots__ = ("start", "block")
    START_FIELD_NUMBER: _ClassVar[int]
    BLOCK_FIELD_NUMBER: _ClassVar[int]
    start: ComputeStreamStart
    block: RowBlock
    def __init__(self, start: _Optional[_Union[ComputeStreamStart, _Mapping]] = ..., block: _Optional[_Union[RowBlock, _Mapping]] = ...) -> None: ...

class ComputeStreamStart(_message.Message):
    __slots__ = ("options", "sample_weight", "class_weight", "pos_weight", "labels", "labels_spec", "logits_spec")
    OPTIONS_FIELD_NUMBER: _ClassVar[int]
    SAMPLE_WEIGHT_FIELD_NUMBER: _ClassVar[int]
    CLASS_WEIGHT_FIELD_NUMBER: _ClassVar[int]
    POS_WEIGHT_FIELD_NUMBER: _ClassVar[int]
    LABELS_FIELD_NUMBER: _ClassVar[int]
    LABELS_SPEC_FIELD_NUMBER: _ClassVar[int]
    LOGITS_SPEC_FIELD_NUMBER: _ClassVar[int]
    options: _options_pb2.LossOptions
    sample_weight: _tensor_pb2.Tensor
    class_weight: _tensor_pb2.Tensor
    pos_weight: _tensor_pb2.Tensor
    labels: _tensor_pb2.Tensor
    labels_spec: _tensor_pb2.TensorSpec
    logits_spec: _tensor_pb2.TensorSpec
    def __init__(self, options: _Optional[_Union[_options_pb2.LossOptions, _Mapping]] = ..., sample_weight: _Optional[_Union[_tensor_pb2.Tensor, _Mapping]] = ..., class_weight: _Optional[_Union[_tensor_pb2.Tensor, _Mapping]] = ..., pos_weight: _Optional[_Union[_tensor_pb2.Tensor, _Mapping]] = ..., labels: _Optional[_Union[_tensor_pb2.Tensor, _Mapping]] = ..., labels_spec: _Optional[_Union[_tensor_pb2.TensorSpec, _Mapping]] = ..., logits_spec: _Optional[_Union[_tensor_pb2.TensorSpec, _Mapping]] = ...) -> None: ...

class RowBlock(_message.Message):
    __slots__ = ("first_row", "rows", "labels", "logits")
    FIRST_ROW_FIELD_NUMBER: _ClassVar[int]
    ROWS_FIELD_NUMBER: _ClassVar[int]
    LABELS_FIELD_NUMBER: _ClassVar[int]
    LOGITS_FIELD_NUMBER: _ClassVar[int]
    first_row: int
    rows: int
    labels: bytes
    logits: bytes
    def __init__(self, first_row: _Optional[int] = ..., rows: _Optional[int] = ..., labels: _Optional[bytes] = ..., logits: _Optional[bytes] = ...) -> None: ...

class ComputeStreamResponse(_message.Message):
    __slots__ = ("block", "summary")
    BLOCK_FIELD_NUMBER: _ClassVar[int]
    SUMMARY_FIELD_NUMBER: _ClassVar[int]
    block: ResultBlock
    summary: ComputeStreamSummary
    def __init__(self, block: _Optional[_Union[ResultBlock, _Mapping]] = ..., summary: _Optional[_Union[ComputeStreamSummary, _Mapping]] = ...) -> None: ...

class ResultBlock(_message.Message):
    __slots__ = ("first_row", "rows", "per_example", "logsumexp", "argmax", "entropy", "grad_labels", "output", "grad_logits")
    FIRST_ROW_FIELD_NUMBER: _ClassVar[int]
    ROWS_FIELD_NUMBER: _ClassVar[int]
    PER_EXAMPLE_FIELD_NUMBER: _ClassVar[int]
    LOGSUMEXP_FIELD_NUMBER: _ClassVar[int]
    ARGMAX_FIELD_NUMBER: _ClassVar[int]
    ENTROPY_FIELD_NUMBER: _ClassVar[int]
    GRAD_LABELS_FIELD_NUMBER: _ClassVar[int]
    OUTPUT_FIELD_NUMBER: _ClassVar[int]
    GRAD_LOGITS_FIELD_NUMBER: _ClassVar[int]
    first_row: int
    rows: int
    per_example: bytes
    logsumexp: bytes
    argmax: bytes
    entropy: bytes
    grad_labels: bytes
    output: bytes
    grad_logits: bytes
    def __init__(self, first_row: _Optional[int] = ..., rows: _Optional[int] = ..., per_example: _Optional[bytes] = ..., logsumexp: _Optional[bytes] = ..., argmax: _Optional[bytes] = ..., entropy: _Optional[bytes] = ..., grad_labels: _Optional[bytes] = ..., output: _Optional[bytes] = ..., grad_logits: _Optional[bytes] = ...) -> None: ...

class ComputeStreamSummary(_message.Message):
    __slots__ = ("loss", "grad_labels", "rows")
    LOSS_FIELD_NUMBER: _ClassVar[int]
    GRAD_LABELS_FIELD_NUMBER: _ClassVar[int]
    ROWS_FIELD_NUMBER: _ClassVar[int]
    loss: _tensor_pb2.Tensor
    grad_labels: _tensor_pb2.Tensor
    rows: int
    def __init__(self, loss: _Optional[_Union[_tensor_pb2.Tensor, _Mapping]] = ..., grad_labels: _Optional[_Union[_tensor_pb2.Tensor, _Mapping]] = ..., rows: _Optional[int] = ...) -> None: ...

class ComputeManyRequest(_message.Message):
    __slots__ = ("requests", "cancelled_ids")
    REQUESTS_FIELD_NUMBER: _ClassVar[int]
    CANCELLED_IDS_FIELD_NUMBER: _ClassVar[int]
    requests: _containers.RepeatedCompositeFieldContainer[ManyRequest]
    cancelled_ids: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, requests: _Optional[_Iterable[_Union[ManyRequest, _Mapping]]] = ..., cancelled_ids: _Optional[_Iterable[int]] = ...) -> None: ...

class ManyRequest(_message.Message):
    __slots__ = ("id", "timeout_ms", "request")
    ID_FIELD_NUMBER: _ClassVar[int]
    TIMEOUT_MS_FIELD_NUMBER: _ClassVar[int]
    REQUEST_FIELD_NUMBER: _ClassVar[int]
    id: int
    timeout_ms: int
    request: ComputeRequest
    def __init__(self, id: _Optional[int] = ..., timeout_ms: _Optional[int] = ..., request: _Optional[_Union[ComputeRequest, _Mapping]] = ...) -> None: ...

class ComputeManyResponse(_message.Message):
    __slots__ = ("responses",)
    RESPONSES_FIELD_NUMBER: _ClassVar[int]
    responses: _containers.RepeatedCompositeFieldContainer[ManyResponse]
    def __init__(self, responses: _Optional[_Iterable[_Union[ManyResponse, _Mapping]]] = ...) -> None: ...

class ManyResponse(_message.Message):
    __slots__ = ("id", "response", "error")
    ID_FIELD_NUMBER: _ClassVar[int]
    RESPONSE_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    id: int
    response: ComputeResponse
    error: RequestError
    def __init__(self, id: _Optional[int] = ..., response: _Optional[_Union[ComputeResponse, _Mapping]] = ..., error: _Optional[_Union[RequestError, _Mapping]] = ...) -> None: ...

class RequestError(_message.Message):
    __slots__ = ("code", "message", "retry_delay_ms")
    CODE_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    RETRY_DELAY_MS_FIELD_NUMBER: _ClassVar[int]
    code: int
    message: str
    retry_delay_ms: int
    def __init__(self, code: _Optional[int] = ..., message: _Optional[str] = ..., retry_delay_ms: _Optional[int] = ...) -> None: ...

class GetServerInfoRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class GetServerInfoResponse(_message.Message):
    __slots__ = ("version", "backend", "device", "dtypes", "losses", "rpcs", "limits", "host")
    VERSION_FIELD_NUMBER: _ClassVar[int]
    BACKEND_FIELD_NUMBER: _ClassVar[int]
    DEVICE_FIELD_NUMBER: _ClassVar[int]
    DTYPES_FIELD_NUMBER: _ClassVar[int]
    LOSSES_FIELD_NUMBER: _ClassVar[int]
    RPCS_FIELD_NUMBER: _ClassVar[int]
    LIMITS_FIELD_NUMBER: _ClassVar[int]
    HOST_FIELD_NUMBER: _ClassVar[int]
    version: str
    backend: str
    device: str
    dtypes: _containers.RepeatedScalarFieldContainer[_tensor_pb2.DataType]
    losses: _containers.RepeatedScalarFieldContainer[str]
    rpcs: _containers.RepeatedScalarFieldContainer[str]
    limits: ServerLimits
    host: HostIdentity
    def __init__(self, version: _Optional[str] = ..., backend: _Optional[str] = ..., device: _Optional[str] = ..., dtypes: _Optional[_Iterable[_Union[_tensor_pb2.DataType, str]]] = ..., losses: _Optional[_Iterable[str]] = ..., rpcs: _Optional[_Iterable[str]] = ..., limits: _Optional[_Union[ServerLimits, _Mapping]] = ..., host: _Optional[_Union[HostIdentity, _Mapping]] = ...) -> None: ...

class ServerLimits(_message.Message):
    __slots__ = ("max_message_bytes", "max_rank", "queue_bytes", "max_batch_rows", "max_batch_bytes", "max_region_bytes")
    MAX_MESSAGE_BYTES_FIELD_NUMBER: _ClassVar[int]
    MAX_RANK_FIELD_NUMBER: _ClassVar[int]
    QUEUE_BYTES_FIELD_NUMBER: _ClassVar[int]
    MAX_BATCH_ROWS_FIELD_NUMBER: _ClassVar[int]
    MAX_BATCH_BYTES_FIELD_NUMBER: _ClassVar[int]
    MAX_REGION_BYTES_FIELD_NUMBER: _ClassVar[int]
    max_message_bytes: int
    max_rank: int
    queue_bytes: int
    max_batch_rows: int
    max_batch_bytes: int
    max_region_bytes: int
    def __init__(self, max_message_bytes: _Optional[int] = ..., max_rank: _Optional[int] = ..., queue_bytes: _Optional[int] = ..., max_batch_rows: _Optional[int] = ..., max_batch_bytes: _Optional[int] = ..., max_region_bytes: _Optional[int] = ...) -> None: ...

class HostIdentity(_message.Message):
    __slots__ = ("boot_id", "pid_namespace", "pid", "handover_socket")
    BOOT_ID_FIELD_NUMBER: _ClassVar[int]
    PID_NAMESPACE_FIELD_NUMBER: _ClassVar[int]
    PID_FIELD_NUMBER: _ClassVar[int]
    HANDOVER_SOCKET_FIELD_NUMBER: _ClassVar[int]
    boot_id: str
    pid_namespace: int
    pid: int
    handover_socket: str
    def __init__(self, boot_id: _Optional[str] = ..., pid_namespace: _Optional[int] = ..., pid: _Optional[int] = ..., handover_socket: _Optional[str] = ...) -> None: ...

class OpenRegionRequest(_message.Message):
    __slots__ = ("process_file", "shared_file", "size_bytes", "proof")
    PROCESS_FILE_FIELD_NUMBER: _ClassVar[int]
    SHARED_FILE_FIELD_NUMBER: _ClassVar[int]
    SIZE_BYTES_FIELD_NUMBER: _ClassVar[int]
    PROOF_FIELD_NUMBER: _ClassVar[int]
    process_file: ProcessFile
    shared_file: str
    size_bytes: int
    proof: bytes
    def __init__(self, process_file: _Optional[_Union[ProcessFile, _Mapping]] = ..., shared_file: _Optional[str] = ..., size_bytes: _Optional[int] = ..., proof: _Optional[bytes] = ...) -> None: ...

class ProcessFile(_message.Message):
    __slots__ = ("pid", "fd")
    PID_FIELD_NUMBER: _ClassVar[int]
    FD_FIELD_NUMBER: _ClassVar[int]
    pid: int
    fd: int
    def __init__(self, pid: _Optional[int] = ..., fd: _Optional[int] = ...) -> None: ...

class OpenRegionResponse(_message.Message):
    __slots__ = ("region_id",)
    REGION_ID_FIELD_NUMBER: _ClassVar[int]
    region_id: str
    def __init__(self, region_id: _Optional[str] = ...) -> None: ...

class CloseRegionRequest(_message.Message):
    __slots__ = ("region_id",)
    REGION_ID_FIELD_NUMBER: _ClassVar[int]
    region_id: str
    def __init__(self, region_id: _Optional[str] = ...) -> None: ...

class CloseRegionResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...
