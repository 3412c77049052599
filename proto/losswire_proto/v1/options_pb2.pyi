from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Reduction(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    REDUCTION_UNSPECIFIED: _ClassVar[Reduction]
    REDUCTION_NONE: _ClassVar[Reduction]
    REDUCTION_SUM: _ClassVar[Reduction]
    REDUCTION_MEAN: _ClassVar[Reduction]

class NormalizerRule(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    NORMALIZER_RULE_UNSPECIFIED: _ClassVar[NormalizerRule]
    NORMALIZER_RULE_VALID: _ClassVar[NormalizerRule]
    NORMALIZER_RULE_WEIGHTS: _ClassVar[NormalizerRule]
    NORMALIZER_RULE_SIZE: _ClassVar[NormalizerRule]

class EmptyMean(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    EMPTY_MEAN_UNSPECIFIED: _ClassVar[EmptyMean]
    EMPTY_MEAN_NAN: _ClassVar[EmptyMean]
    EMPTY_MEAN_ZERO: _ClassVar[EmptyMean]

class OutOfRange(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    OUT_OF_RANGE_UNSPECIFIED: _ClassVar[OutOfRange]
    OUT_OF_RANGE_ERROR: _ClassVar[OutOfRange]
    OUT_OF_RANGE_NAN: _ClassVar[OutOfRange]
    OUT_OF_RANGE_IGNORE: _ClassVar[OutOfRange]

class LabelGradient(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    LABEL_GRADIENT_UNSPECIFIED: _ClassVar[LabelGradient]
    LABEL_GRADIENT_EXACT: _ClassVar[LabelGradient]
    LABEL_GRADIENT_TF: _ClassVar[LabelGradient]

class Extra(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    EXTRA_UNSPECIFIED: _ClassVar[Extra]
    EXTRA_LOGSUMEXP: _ClassVar[Extra]
    EXTRA_ARGMAX: _ClassVar[Extra]
    EXTRA_ENTROPY: _ClassVar[Extra]

class FocalForm(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    FOCAL_FORM_UNSPECIFIED: _ClassVar[FocalForm]
    FOCAL_FORM_SOFTMAX: _ClassVar[FocalForm]
    FOCAL_FORM_SIGMOID: _ClassVar[FocalForm]

class ClipOrder(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    CLIP_ORDER_UNSPECIFIED: _ClassVar[ClipOrder]
    CLIP_ORDER_NORMALIZE_FIRST: _ClassVar[ClipOrder]
    CLIP_ORDER_CLIP_FIRST: _ClassVar[ClipOrder]
REDUCTION_UNSPECIFIED: Reduction
REDUCTION_NONE: Reduction
REDUCTION_SUM: Reduction
REDUCTION_MEAN: Reduction
NORMALIZER_RULE_UNSPECIFIED: NormalizerRule
NORMALIZER_RULE_VALID: NormalizerRule
NORMALIZER_RULE_WEIGHTS: NormalizerRule
NORMALIZER_RULE_SIZE: NormalizerRule
EMPTY_MEAN_UNSPECIFIED: EmptyMean
EMPTY_MEAN_NAN: EmptyMean
EMPTY_MEAN_ZERO: EmptyMean
OUT_OF_RANGE_UNSPECIFIED: OutOfRange
OUT_OF_RANGE_ERROR: OutOfRange
OUT_OF_RANGE_NAN: OutOfRange
OUT_OF_RANGE_IGNORE: OutOfRange
LABEL_GRADIENT_UNSPECIFIED: LabelGradient
LABEL_GRADIENT_EXACT: LabelGradient
LABEL_GRADIENT_TF: LabelGradient
EXTRA_UNSPECIFIED: Extra
EXTRA_LOGSUMEXP: Extra
EXTRA_ARGMAX: Extra
EXTRA_ENTROPY: Extra
FOCAL_FORM_UNSPECIFIED: FocalForm
FOCAL_FORM_SOFTMAX: FocalForm
FOCAL_FORM_SIGMOID: FocalForm
CLIP_ORDER_UNSPECIFIED: ClipOrder
CLIP_ORDER_NORMALIZE_FIRST: ClipOrder
CLIP_ORDER_CLIP_FIRST: ClipOrder

class SoftmaxCrossEntropyOptions(_message.Message):
    __slots__ = ("ignore_index", "out_of_range", "label_gradient", "label_smoothing", "z_loss", "softcap", "temperature", "extras")
    IGNORE_INDEX_FIELD_NUMBER: _ClassVar[int]
    OUT_OF_RANGE_FIELD_NUMBER: _ClassVar[int]
    LABEL_GRADIENT_FIELD_NUMBER: _ClassVar[int]
    LABEL_SMOOTHING_FIELD_NUMBER: _ClassVar[int]
    Z_LOSS_FIELD_NUMBER: _ClassVar[int]
    SOFTCAP_FIELD_NUMBER: _ClassVar[int]
    TEMPERATURE_FIELD_NUMBER: _ClassVar[int]
    EXTRAS_FIELD_NUMBER: _ClassVar[int]
    ignore_index: int
    out_of_range: OutOfRange
    label_gradient: LabelGradient
    label_smoothing: float
    z_loss: float
    softcap: float
    temperature: float
    extras: _containers.RepeatedScalarFieldContainer[Extra]
    def __init__(self, ignore_index: _Optional[int] = ..., out_of_range: _Optional[_Union[OutOfRange, str]] = ..., label_gradient: _Optional[_Union[LabelGradient, str]] = ..., label_smoothing: _Optional[float] = ..., z_loss: _Optional[float] = ..., softcap: _Optional[float] = ..., temperature: _Optional[float] = ..., extras: _Optional[_Iterable[_Union[Extra, str]]] = ...) -> None: ...

class SigmoidCrossEntropyOptions(_message.Message):
    __slots__ = ("label_smoothing",)
    LABEL_SMOOTHING_FIELD_NUMBER: _ClassVar[int]
    label_smoothing: float
    def __init__(self, label_smoothing: _Optional[float] = ...) -> None: ...

class CategoricalCrossEntropyOptions(_message.Message):
    __slots__ = ("ignore_index", "epsilon", "label_smoothing", "clip_order", "out_of_range")
    IGNORE_INDEX_FIELD_NUMBER: _ClassVar[int]
    EPSILON_FIELD_NUMBER: _ClassVar[int]
    LABEL_SMOOTHING_FIELD_NUMBER: _ClassVar[int]
    CLIP_ORDER_FIELD_NUMBER: _ClassVar[int]
    OUT_OF_RANGE_FIELD_NUMBER: _ClassVar[int]
    ignore_index: int
    epsilon: float
    label_smoothing: float
    clip_order: ClipOrder
    out_of_range: OutOfRange
    def __init__(self, ignore_index: _Optional[int] = ..., epsilon: _Optional[float] = ..., label_smoothing: _Optional[float] = ..., clip_order: _Optional[_Union[ClipOrder, str]] = ..., out_of_range: _Optional[_Union[OutOfRange, str]] = ...) -> None: ...

class BinaryCrossEntropyOptions(_message.Message):
    __slots__ = ("epsilon", "label_smoothing")
    EPSILON_FIELD_NUMBER: _ClassVar[int]
    LABEL_SMOOTHING_FIELD_NUMBER: _ClassVar[int]
    epsilon: float
    label_smoothing: float
    def __init__(self, epsilon: _Optional[float] = ..., label_smoothing: _Optional[float] = ...) -> None: ...

class KlDivergenceOptions(_message.Message):
    __slots__ = ("target_is_logits", "temperature", "scale_by_temperature_squared")
    TARGET_IS_LOGITS_FIELD_NUMBER: _ClassVar[int]
    TEMPERATURE_FIELD_NUMBER: _ClassVar[int]
    SCALE_BY_TEMPERATURE_SQUARED_FIELD_NUMBER: _ClassVar[int]
    target_is_logits: bool
    temperature: float
    scale_by_temperature_squared: bool
    def __init__(self, target_is_logits: bool = ..., temperature: _Optional[float] = ..., scale_by_temperature_squared: bool = ...) -> None: ...

class FocalOptions(_message.Message):
    __slots__ = ("gamma", "alpha", "form", "ignore_index")
    GAMMA_FIELD_NUMBER: _ClassVar[int]
    ALPHA_FIELD_NUMBER: _ClassVar[int]
    FORM_FIELD_NUMBER: _ClassVar[int]
    IGNORE_INDEX_FIELD_NUMBER: _ClassVar[int]
    gamma: float
    alpha: float
    form: FocalForm
    ignore_index: int
    def __init__(self, gamma: _Optional[float] = ..., alpha: _Optional[float] = ..., form: _Optional[_Union[FocalForm, str]] = ..., ignore_index: _Optional[int] = ...) -> None: ...

class SoftmaxOptions(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class LogSoftmaxOptions(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class SequenceLossOptions(_message.Message):
    __slots__ = ("average_across_timesteps", "average_across_batch")
    AVERAGE_ACROSS_TIMESTEPS_FIELD_NUMBER: _ClassVar[int]
    AVERAGE_ACROSS_BATCH_FIELD_NUMBER: _ClassVar[int]
    average_across_timesteps: bool
    average_across_batch: bool
    def __init__(self, average_across_timesteps: bool = ..., average_across_batch: bool = ...) -> None: ...

class LossOptions(_message.Message):
    __slots__ = ("softmax_cross_entropy", "sigmoid_cross_entropy", "categorical_cross_entropy", "binary_cross_entropy", "kl_divergence", "focal", "softmax", "log_softmax", "sequence_loss", "axis", "reduction", "normalizer_rule", "normalizer_value", "empty_mean", "grad_logits", "grad_labels")
    SOFTMAX_CROSS_ENTROPY_FIELD_NUMBER: _ClassVar[int]
    SIGMOID_CROSS_ENTROPY_FIELD_NUMBER: _ClassVar[int]
    CATEGORICAL_CROSS_ENTROPY_FIELD_NUMBER: _ClassVar[int]
    BINARY_CROSS_ENTROPY_FIELD_NUMBER: _ClassVar[int]
    KL_DIVERGENCE_FIELD_NUMBER: _ClassVar[int]
    FOCAL_FIELD_NUMBER: _ClassVar[int]
    SOFTMAX_FIELD_NUMBER: _ClassVar[int]
    LOG_SOFTMAX_FIELD_NUMBER: _ClassVar[int]
    SEQUENCE_LOSS_FIELD_NUMBER: _ClassVar[int]
    AXIS_FIELD_NUMBER: _ClassVar[int]
    REDUCTION_FIELD_NUMBER: _ClassVar[int]
    NORMALIZER_RULE_FIELD_NUMBER: _ClassVar[int]
    NORMALIZER_VALUE_FIELD_NUMBER: _ClassVar[int]
    EMPTY_MEAN_FIELD_NUMBER: _ClassVar[int]
    GRAD_LOGITS_FIELD_NUMBER: _ClassVar[int]
    GRAD_LABELS_FIELD_NUMBER: _ClassVar[int]
    softmax_cross_entropy: SoftmaxCrossEntropyOptions
    sigmoid_cross_entropy: SigmoidCrossEntropyOptions
    categorical_cross_entropy: CategoricalCrossEntropyOptions
    binary_cross_entropy: BinaryCrossEntropyOptions
    kl_divergence: KlDivergenceOptions
    focal: FocalOptions
    softmax: SoftmaxOptions
    log_softmax: LogSoftmaxOptions
    sequence_loss: SequenceLossOptions
    axis: int
    reduction: Reduction
    normalizer_rule: NormalizerRule
    normalizer_value: float
    empty_mean: EmptyMean
    grad_logits: bool
    grad_labels: bool
    def __init__(self, softmax_cross_entropy: _Optional[_Union[SoftmaxCrossEntropyOptions, _Mapping]] = ..., sigmoid_cross_entropy: _Optional[_Union[SigmoidCrossEntropyOptions, _Mapping]] = ..., categorical_cross_entropy: _Optional[_Union[CategoricalCrossEntropyOptions, _Mapping]] = ..., binary_cross_entropy: _Optional[_Union[BinaryCrossEntropyOptions, _Mapping]] = ..., kl_divergence: _Optional[_Union[KlDivergenceOptions, _Mapping]] = ..., focal: _Optional[_Union[FocalOptions, _Mapping]] = ..., softmax: _Optional[_Union[SoftmaxOptions, _Mapping]] = ..., log_softmax: _Optional[_Union[LogSoftmaxOptions, _Mapping]] = ..., sequence_loss: _Optional[_Union[SequenceLossOptions, _Mapping]] = ..., axis: _Optional[int] = ..., reduction: _Optional[_Union[Reduction, str]] = ..., normalizer_rule: _Optional[_Union[NormalizerRule, str]] = ..., normalizer_value: _Optional[float] = ..., empty_mean: _Optional[_Union[EmptyMean, str]] = ..., grad_logits: bool = ..., grad_labels: bool = ...) -> None: ...
