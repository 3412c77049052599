"""Messages as bytes, as they should be and as they should not, for tests of those who read them."""

from hypothesis import strategies as st

from losswire_proto import codec

KINDS = tuple(codec.LAYOUTS)
FEW = 8
"""Bytes that are worth cutting out, for most tests here: small messages show all there is."""

VARINT, FIXED64, BYTES, GROUP, END, FIXED32 = range(6)


def field(number, wire, content, longer=(0, 0)):
    """A field as bytes, its tag and its length or value written so much longer than need be."""
    tag = codec.varint(number << 3 | wire, longer[0])
    if wire == VARINT:
        return tag + codec.varint(content, longer[1])
    if wire == BYTES:
        return tag + codec.varint(len(content), longer[1]) + content
    return tag + content


@st.composite
def unusual(draw, number):
    """A field of that number as no writer of ours would write it."""
    longer = draw(st.sampled_from([(0, 0), (1, 0), (4, 0), (6, 0), (0, 1), (0, 3), (0, 5), (0, 9)]))
    wire = draw(st.sampled_from([VARINT, FIXED64, BYTES, GROUP, END, FIXED32, 6, 7]))
    match wire:
        case 0:
            return field(number, wire, draw(st.integers(0, 2**64 - 1)), longer)
        case 1 | 5:
            return field(number, wire, bytes(8 if wire == FIXED64 else 4), longer)
        case 2:
            return field(number, wire, bytes(draw(st.integers(0, 3 * FEW))), longer)
        case 3:
            return field(number, GROUP, b"\x08\x01") + field(number, END, b"")
        case _:
            return field(number, wire, b"")


def fields_of(descriptor, depth=0):
    """The bytes of any number of fields of a message, most of them as they should be."""

    @st.composite
    def one(draw):
        known = draw(st.sampled_from([*descriptor.fields, None]))
        if known is None or not draw(st.integers(0, 9)):
            number = draw(st.sampled_from([0, 1, 2, 3, 15, 16, 99, 2**29 - 1, 2**29, 2**32 + 15]))
            return draw(unusual(number if known is None else known.number))
        longer = draw(st.sampled_from([(0, 0)] * 8 + [(0, 1), (0, 3), (0, 4)]))
        if known.type == known.TYPE_MESSAGE:
            content = draw(fields_of(known.message_type, depth + 1)) if depth < 3 else b""
        elif known.type in {known.TYPE_BYTES, known.TYPE_STRING}:
            content = draw(st.sampled_from(b"ab\x80")).to_bytes() * draw(st.integers(0, 3 * FEW))
        else:
            return field(known.number, VARINT, draw(st.integers(0, 300)), longer)
        return field(known.number, BYTES, content, longer)

    return st.lists(one(), max_size=4).map(b"".join)


@st.composite
def payloads(draw):
    """A kind of message, and bytes that are nearly or entirely one."""
    kind = draw(st.sampled_from(KINDS))
    payload = bytearray(draw(fields_of(kind.DESCRIPTOR)))
    damage = draw(st.sampled_from(["none", "none", "cut", "changed", "appended"]))
    if damage == "cut":
        del payload[draw(st.integers(0, len(payload))) :]
    elif damage == "changed" and payload:
        at = draw(st.integers(0, len(payload) - 1))
        payload[at] = draw(st.integers(0, 255))
    elif damage == "appended":
        payload += draw(st.binary(max_size=12))
    return kind, bytes(payload)


def put_back(message, views, payload):
    """The message with the bytes in it that were cut out of `payload`."""
    for path, view in views.items():
        assert view.obj is payload, "a view of something else"
        parent = message
        for number in path[:-1]:
            name = parent.DESCRIPTOR.fields_by_number[number].name
            assert parent.HasField(name), f"a view of {name}, which is not there"
            parent = getattr(parent, name)
        setattr(parent, parent.DESCRIPTOR.fields_by_number[path[-1]].name, bytes(view))
    return message
