"""Mutations that know what they change: steps, protobuf fields, tensors.

In: a script and a source of chance. Out: another script, most often one that is nearly right. Bytes
are changed without any knowledge, too, since parsers have to survive that as well.
"""

import math

import numpy as np
from google.protobuf.message import DecodeError

from fuzz.scripts import Condition, Script, Step
from losswire_proto import dtypes, tensors
from losswire_proto.losses import LOSSES
from losswire_proto.v1 import tensor_pb2

INTEGERS = (
    0,
    1,
    2,
    3,
    5,
    8,
    12,
    31,
    32,
    33,
    64,
    100,
    127,
    128,
    255,
    256,
    4096,
    2**20,
    2**31 - 1,
    2**31,
)
INTEGERS += (2**32 - 1, 2**32, 2**57, 2**58 - 1, 2**58, 2**62, 2**63 - 1, 2**63, 2**64 - 1)
NUMBERS = (0.0, -0.0, 0.1, 0.5, 1.0, 2.0, -1.0, 1e-7, 5e-324, 1e-300, 1e30, 1e300, 1.5, 1000.0)
NUMBERS += (math.inf, -math.inf, math.nan)
WORDS = ("", "r0", "r1", "r2", "r3", "00" * 16, "é" * 50, "\x00", "x" * 300)
_DTYPES = (*dtypes.FLOATS, *(np.dtype(kind) for kind in ("i1", "i2", "i4", "i8", "u1", "u4", "u8")))


def mutated(data, target, random, change_bytes=None, largest=4096):
    """Bytes of another script.

    Args:
        data: of the script to begin with.
        target: the kinds of steps it knows, and what their contents are.
        random: chance.
        change_bytes: the fuzzer's own way to change bytes; None for one of ours.
        largest: bytes of the result; a longer one is given up.
    """
    change_bytes = change_bytes or (lambda content: _bytes_changed(content, random))
    script = Script.of(data)
    steps, condition = list(script.steps), script.condition
    for _ in range(random.choice((1, 1, 1, 2, 3, 5))):
        dice = random.random()
        if not steps or dice < 0.12:
            steps.insert(random.randint(0, len(steps)), _new_step(steps, target, random))
        elif dice < 0.30:
            _rearrange(steps, random)
        elif dice < 0.36:
            condition = Condition(condition ^ (1 << random.randrange(4)))
        else:
            place = random.randrange(len(steps))
            kind, content = steps[place].kind, steps[place].content
            if kind in target.MESSAGES and random.random() < 0.85:
                content = _message_changed(target.MESSAGES[kind], content, random)
            else:
                content = change_bytes(content)
            steps[place] = Step(kind, content)
    result = Script(condition, tuple(steps)).to_bytes()
    return result if len(result) <= largest else data


def _new_step(steps, target, random):
    same = [step for step in steps if step.kind in target.MESSAGES]
    kind = random.choice(target.KINDS)
    if same and random.random() < 0.4:
        return random.choice(same)
    if kind in target.MESSAGES:
        message = target.MESSAGES[kind]()
        for _ in range(3):
            _change(message, random)
        return Step(kind, message.SerializeToString())
    return Step(kind, bytes(random.choice((0, 1, 1, 2, 5, 20))))


def _rearrange(steps, random):
    """Drops, repeats or moves a step."""
    place = random.randrange(len(steps))
    match random.randrange(4):
        case 0:
            del steps[place]
        case 1:
            steps.insert(random.randint(0, len(steps)), steps[place])
        case 2:
            steps.insert(random.randint(0, len(steps) - 1), steps.pop(place))
        case 3:
            del steps[place + 1 :]


def _bytes_changed(content, random):
    changed = bytearray(content)
    for _ in range(random.choice((1, 1, 2, 4))):
        place = random.randint(0, len(changed))
        match random.randrange(4):
            case 0:
                del changed[place : place + random.choice((1, 1, 2, 8))]
            case 1:
                changed[place:place] = random.randbytes(random.choice((1, 1, 2, 8)))
            case 2 if changed:
                changed[place % len(changed)] = random.randrange(256)
            case 3 if changed:
                changed[place % len(changed)] ^= 1 << random.randrange(8)
    return bytes(changed)


def _message_changed(kind, content, random):
    try:
        message = kind.FromString(content)
    except DecodeError:
        return _bytes_changed(content, random)
    for _ in range(random.choice((1, 1, 2))):
        _change(random.choice(list(_within(message))), random)
    content = message.SerializeToString()
    return _bytes_changed(content, random) if random.random() < 0.05 else content


def _within(message):
    """The message and all that are set within it."""
    yield message
    for descriptor, value in message.ListFields():
        if descriptor.message_type:
            each = value if descriptor.is_repeated else [value]
            for inner in each:
                yield from _within(inner)


def _change(message, random):
    """Changes one field of a message, or all of a tensor."""
    name = message.DESCRIPTOR.name
    if name == "Tensor" and random.random() < 0.5:
        _change_tensor(message, random)
        return
    if name == "LossOptions" and random.random() < 0.2:
        getattr(message, random.choice(list(LOSSES))).SetInParent()
        return
    present = [descriptor for descriptor, _ in message.ListFields()]
    fields = present if present and random.random() < 0.6 else message.DESCRIPTOR.fields
    if fields:
        _change_field(message, random.choice(list(fields)), random)


def _change_field(message, descriptor, random):
    name = descriptor.name
    if random.random() < 0.15:
        message.ClearField(name)
        return
    if descriptor.is_repeated:
        values = getattr(message, name)
        if values and random.random() < 0.4:
            del values[random.randrange(len(values))]
        elif descriptor.message_type:
            values.add()
        else:
            values.insert(random.randint(0, len(values)), _value(descriptor, 0, random))
        return
    if descriptor.message_type:
        inner = getattr(message, name)
        inner.SetInParent()
        if inner.DESCRIPTOR.name == "Tensor":
            _change_tensor(inner, random)
        else:
            _change(inner, random)
        return
    setattr(message, name, _value(descriptor, getattr(message, name), random))


def _value(descriptor, old, random):
    kind = descriptor.cpp_type
    if kind in {descriptor.CPPTYPE_DOUBLE, descriptor.CPPTYPE_FLOAT}:
        return random.choice((*NUMBERS, random.random()))
    if kind == descriptor.CPPTYPE_BOOL:
        return not old
    if kind == descriptor.CPPTYPE_ENUM:
        return random.choice((*range(13), 99))
    if descriptor.type == descriptor.TYPE_BYTES:
        return _bytes_changed(old, random)
    if kind == descriptor.CPPTYPE_STRING:
        return random.choice(WORDS)
    value = random.choice((*INTEGERS, *(-each for each in INTEGERS), old + 1, old - 1, old * 2))
    bits = 32 if kind in {descriptor.CPPTYPE_INT32, descriptor.CPPTYPE_UINT32} else 64
    is_signed = kind in {descriptor.CPPTYPE_INT32, descriptor.CPPTYPE_INT64}
    low = -(1 << bits - 1) if is_signed else 0
    high = (1 << bits - is_signed) - 1
    return min(max(value, low), high)


def _change_element(message, itemsize, random):
    """Another element: one that is large, negative, infinite, NaN, or out of range as an id."""
    elements = bytearray(message.data)
    start = random.randrange(len(elements)) // itemsize * itemsize
    if random.random() < 0.5:
        elements[start] = random.choice((0, 1, 2, 3, 5, 9, 0x7F, 0x80, 0xFF))
    else:
        stop = min(start + itemsize, len(elements))
        elements[start:stop] = bytes([random.choice((0, 0x7F, 0x80, 0xFF))] * (stop - start))
    message.data = bytes(elements)


def _change_tensor(message, random):
    """Another shape, dtype or other elements, so that the tensor stays one."""
    dtype, shape = dtypes.dtype_of(message.dtype) or np.dtype(np.float32), list(message.shape)
    if message.data and random.random() < 0.4:
        _change_element(message, dtype.itemsize, random)
        return
    is_whole = all(0 <= length <= 64 for length in shape) and math.prod(shape) <= 1024
    match random.randrange(4):
        case 0:
            dtype = random.choice(_DTYPES)
        case 1 if shape:
            shape[random.randrange(len(shape))] = random.choice((0, 1, 2, 3, 5, 7, 17))
        case 2:
            shape = [random.choice((0, 1, 2, 3, 4, 7)) for _ in range(random.choice((0, 1, 2, 3)))]
    if not is_whole or math.prod(shape) > 1024:
        shape = [2, 3]
    chance = np.random.default_rng(random.randrange(1 << 30))
    if dtype.kind in "iu":
        elements = chance.integers(0, random.choice((1, 2, 3, 9)), shape)
    else:
        elements = chance.normal(0, random.choice((0, 0.3, 3, 100)), shape)
        if random.random() < 0.3:
            elements = np.abs(elements)
        if elements.size and random.random() < 0.3:
            elements.reshape(-1)[random.randrange(elements.size)] = random.choice(NUMBERS)
    with np.errstate(all="ignore"):
        made = tensors.encode("", np.asarray(elements).astype(dtype))
    if message.HasField("region"):
        message.ClearField("data")
        del message.shape[:]
        message.MergeFrom(tensor_pb2.Tensor(dtype=made.dtype, shape=made.shape))
        message.region.length = len(made.data)
    else:
        message.CopyFrom(made)
