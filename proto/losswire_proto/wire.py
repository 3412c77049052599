"""Loss calls on the wire: `LossCall` to `LossOptions` and back.

Options travel in fields of the same names as their definitions in `losses`, strings as the enum
value that ends in them (`"nan"` as `OUT_OF_RANGE_NAN`). A field that is left out means its
default; one that this version has no definition for is refused, never passed over.
"""

from __future__ import annotations

from dataclasses import fields
from typing import TYPE_CHECKING, Any, Final

from google.protobuf.unknown_fields import UnknownFieldSet

from losswire_proto.losses import LOSSES, LossCall
from losswire_proto.rules import InvalidField
from losswire_proto.v1 import options_pb2

if TYPE_CHECKING:
    from google.protobuf.descriptor import FieldDescriptor
    from google.protobuf.message import Message

_COMMON: Final = ("axis", "reduction", "empty_mean", "grad_logits", "grad_labels")


class NotSupported(Exception):  # noqa: N818 -- a refusal, not a fault of the request
    """The request is sound but asks for what this version does not have."""


def encode_call(call: LossCall) -> options_pb2.LossOptions:
    """A loss call as a message; options at their defaults are left out."""
    message = options_pb2.LossOptions()
    own = getattr(message, call.loss.name)
    own.SetInParent()
    for each in fields(call.loss):
        _set(own, each.name, getattr(call.loss, each.name), each.default)
    for each in fields(call):
        if each.name in _COMMON:
            _set(message, each.name, getattr(call, each.name), each.default)
    if call.reduction == "mean":
        if isinstance(call.normalizer, str):
            _set(message, "normalizer_rule", call.normalizer, "valid")
        else:
            message.normalizer_value = call.normalizer
    return message


def decode_call(message: options_pb2.LossOptions) -> LossCall:
    """The loss call in a message.

    Raises:
        InvalidField: no loss, an enum value that is unspecified or unknown, an option outside what
            is allowed.
        NotSupported: a loss or option that this version does not have.
    """
    name = message.WhichOneof("loss")
    if name is None:
        if _unknown(message):
            raise NotSupported(f"options: this server does not know field {_unknown(message)}")
        raise InvalidField("options.loss", "one loss", "none")
    definition = LOSSES.get(name)
    if definition is None:
        raise NotSupported(f"{name}: this server does not compute this loss yet")
    own = _values(getattr(message, name), {each.name for each in fields(definition)}, name)
    shared = _values(message, {*_COMMON, name, "normalizer_rule", "normalizer_value"}, "options")
    del shared[name]
    rule, value = shared.pop("normalizer_rule", None), shared.pop("normalizer_value", None)
    normalizer: Any = value if value is not None else rule if rule is not None else "valid"
    return LossCall(loss=definition(**own), normalizer=normalizer, **shared)


def _set(message: Message, name: str, value: Any, default: Any) -> None:
    if value == default:
        return
    enum = message.DESCRIPTOR.fields_by_name[name].enum_type
    if isinstance(value, tuple):
        getattr(message, name).extend(_enum_number(enum, each) for each in value)
    else:
        setattr(message, name, value if enum is None else _enum_number(enum, value))


def _enum_number(enum: Any, value: str) -> int:
    number: int = enum.values_by_name[_prefix(enum) + value.upper()].number
    return number


def _values(message: Message, known: set[str], where: str) -> dict[str, Any]:
    """The fields that are set, enums as strings."""
    unknown = _unknown(message)
    if unknown:
        raise NotSupported(f"{where}: this server does not know field {unknown}")
    values: dict[str, Any] = {}
    for descriptor, value in message.ListFields():
        if descriptor.name not in known:
            raise NotSupported(
                f"{where}.{descriptor.name}: this server does not have this option yet"
            )
        values[descriptor.name] = _plain(descriptor, value)
    return values


def _plain(descriptor: FieldDescriptor, value: Any) -> Any:
    enum = descriptor.enum_type
    if enum is None:
        return value
    if not isinstance(value, int):  # a repeated field
        return tuple(_enum_string(descriptor.name, enum, each) for each in value)
    return _enum_string(descriptor.name, enum, value)


def _enum_string(name: str, enum: Any, value: int) -> str:
    prefix = _prefix(enum)
    choices: dict[int, str]
    choices = {each.number: each.name.removeprefix(prefix) for each in enum.values if each.number}
    if value not in choices:
        allowed = ", ".join(choices.values())
        raise InvalidField(name, f"one of {allowed}", f"enum value {value}")
    return choices[value].lower()


def _prefix(enum: Any) -> str:
    """What the names of an enum's values begin with, such as `OUT_OF_RANGE_`."""
    return str(enum.values[0].name).removesuffix("UNSPECIFIED")


def _unknown(message: Message) -> str:
    """The numbers of fields that a newer client set, joined; empty where there are none."""
    unknown: Any = UnknownFieldSet(message)  # a sequence, whatever its stubs say
    numbers = sorted({each.field_number for each in unknown})
    return ", ".join(map(str, numbers[:10])) + (", …" if len(numbers) > 10 else "")
