"""ComputeStream: a start, blocks of rows in order, a summary; whatever a client makes of that.

Blocks that came are held to the whole tensor computed at once, its missing rows zero: what a row
becomes depends on nothing but the row, and on what the start said of all.
"""

import math

import numpy as np

from fuzz import answers, truth
from fuzz.answers import Code, Refused
from fuzz.house import House
from fuzz.scripts import Condition, Kind
from losswire_proto import dtypes
from losswire_proto.v1 import loss_service_pb2 as pb

KINDS = (Kind.SEND, Kind.SEND, Kind.PAUSE, Kind.WAIT, Kind.HOLD, Kind.TAKE, Kind.CANCEL, Kind.DRAIN)
MESSAGES = {Kind.SEND: pb.ComputeStreamRequest}

LARGEST_WHOLE = 1 << 16
"""Elements of a tensor that is computed at once."""

_BY_ROW = ("logits", "labels", "grad_logits", "grad_labels", "output")


async def play(script, engine):
    """Makes one call of a script's messages."""
    async with House(script, engine) as house:
        answer = await house.stream("ComputeStream", script.steps)
    sent = _sent(script)
    replies = [pb.ComputeStreamResponse.FromString(reply) for reply in answer.replies]
    _check_end(answer, sent, replies, script)
    if replies:
        _check_replies(sent, replies, engine)


def _sent(script):
    """The messages of a script; None in the place of what is none, and nothing after it."""
    sent = []
    for step in script.steps:
        if step.kind is Kind.SEND:
            try:
                sent.append(answers.parsed(pb.ComputeStreamRequest, step.content))
            except Refused:
                return [*sent, None]
    return sent


def _check_end(answer, sent, replies, script):
    is_summed_up = bool(replies) and replies[-1].HasField("summary")
    assert not any(each.HasField("summary") for each in replies[:-1]), "more after the summary"
    if answer.is_cancelled:
        assert any(step.kind is Kind.CANCEL for step in script.steps), "nobody cancelled"
        return
    if answer.code is None:
        assert is_summed_up, "the end without a summary"
        return
    assert not is_summed_up, "an error after the summary"
    allowed = set(answers.REFUSED)
    if Condition.LITTLE_ROOM in script.condition:
        allowed |= {Code.RESOURCE_EXHAUSTED}
    if Condition.SHORT_DEADLINE in script.condition:
        allowed |= {Code.DEADLINE_EXCEEDED}
    answers.check_status(answer.code, answer.details, allowed)
    has_room = "_bytes" not in answer.details and Condition.LITTLE_ROOM not in script.condition
    if answer.code is Code.INVALID_ARGUMENT and has_room:
        assert not _is_sound(sent), f"a sound stream was refused: {answer.details}"


def _is_sound(sent):
    """Whether a stream keeps all rules."""
    if not sent or None in sent or sent[0].WhichOneof("part") != "start":
        return False
    start, blocks = sent[0].start, [each.block for each in sent[1:]]
    if any(each.WhichOneof("part") != "block" for each in sent[1:]):
        return False
    if start.HasField("labels") and start.HasField("labels_spec"):
        return False
    position = 0
    for block in blocks:
        if block.first_row != position or block.rows < 1:
            return False
        position += block.rows
    try:
        whole = _Whole(start, blocks)
        answers.plain_request(whole.message)
    except (Refused, _TooLarge):
        return False
    return position == whole.rows and whole.is_exact


LARGEST_SHAPE = 1 << 58
"""What tensor.proto allows the product of dimensions that are not 0 to be."""


class _TooLarge(Exception):  # noqa: N818 -- an outcome
    """A tensor that cannot be computed at once here."""


class _Whole:
    """The request that a stream is, in one message.

    Raises:
        Refused: its start is none.
        _TooLarge: who computes it at once needs more memory than a test may have.
    """

    def __init__(self, start, blocks):
        spec, options = start.logits_spec, start.options
        dtype = dtypes.dtype_of(spec.dtype)
        shape = tuple(spec.shape)
        axis = options.axis if options.HasField("axis") else -1
        if dtype is None or min(shape, default=-1) < 0 or not -len(shape) <= axis < len(shape):
            raise Refused("logits_spec")
        if len(shape) > 32 or not shape[axis]:
            raise Refused("too many dimensions, or no classes")
        if math.prod(filter(None, shape)) >= LARGEST_SHAPE:
            raise Refused("logits_spec.shape")
        if math.prod(shape) > LARGEST_WHOLE:
            raise _TooLarge
        self.shape, self.axis = shape, axis % len(shape)
        name = options.WhichOneof("loss")
        self.is_elementwise = name in {"sigmoid_cross_entropy", "binary_cross_entropy"}
        self.is_elementwise |= name == "focal" and options.focal.form == 2
        self.classes = 1 if self.is_elementwise else shape[self.axis]
        self.rows = math.prod(shape) // self.classes
        self.is_exact = True
        self.message = pb.ComputeRequest(options=options)
        for weight in truth.WEIGHTS:
            if start.HasField(weight):
                getattr(self.message, weight).CopyFrom(getattr(start, weight))
        self._fill("logits", dtype, blocks, spec)
        if start.HasField("labels"):
            self.message.labels.CopyFrom(start.labels)
            self.is_exact &= not any(block.labels for block in blocks)
        elif start.HasField("labels_spec"):
            self._check_labels(start)
            own = dtypes.dtype_of(start.labels_spec.dtype)
            self._fill("labels", own, blocks, start.labels_spec)
        else:
            self.is_exact &= not any(block.labels for block in blocks)

    def _check_labels(self, start):
        own = dtypes.dtype_of(start.labels_spec.dtype)
        if own is None or not dtypes.is_float(own) or tuple(start.labels_spec.shape) != self.shape:
            raise Refused("labels_spec")

    def _fill(self, name, dtype, blocks, spec):
        rows = np.zeros((self.rows, self.classes), dtype)
        position = 0
        for block in blocks:
            content, stop = getattr(block, name), position + block.rows
            is_next = block.first_row == position < stop <= self.rows
            if not is_next or len(content) != block.rows * self.classes * dtype.itemsize:
                self.is_exact = False
                break
            rows[position:stop] = np.frombuffer(content, dtype).reshape(-1, self.classes)
            position = stop
        tensor = getattr(self.message, name)
        tensor.dtype = spec.dtype
        tensor.shape.extend(spec.shape)
        tensor.data = self._as_sent(rows).tobytes()

    def _as_sent(self, rows):
        """Rows with the class axis last, in the shape of the tensor."""
        if self.is_elementwise:
            return rows.reshape(self.shape)
        examples = self.shape[: self.axis] + self.shape[self.axis + 1 :]
        return np.moveaxis(rows.reshape(*examples, self.classes), -1, self.axis)

    def by_row(self, array):
        """An array of the tensor's shape as `[rows, classes]`; of the examples', as `[rows]`."""
        if array.ndim != len(self.shape):
            return array.reshape(-1)
        if self.is_elementwise:
            return array.reshape(-1, 1)
        return np.moveaxis(array, self.axis, -1).reshape(self.rows, self.classes)


def _check_replies(sent, replies, engine):
    """The rows that came back, in order, each as in the whole."""
    assert sent[0] is not None, "an answer to what is no message"
    blocks = [each.block for each in sent[1:] if each is not None]
    try:
        whole = _Whole(sent[0].start, blocks)
        request = answers.plain_request(whole.message)
    except _TooLarge:
        return
    except Refused as error:
        raise AssertionError(f"a stream was answered that is to be refused: {error}") from error
    expected = answers.results_of(request, engine)
    has_block_labels = sent[0].start.HasField("labels_spec")
    position = 0
    for reply in replies:
        if reply.HasField("block"):
            _check_block(reply.block, position, whole, expected, has_block_labels)
            position += reply.block.rows
            continue
        assert reply.summary.rows == position == whole.rows, "a summary of other rows"
        assert whole.is_exact, "a summary of blocks of another size"
        summary = {}
        for name in ("loss", "grad_labels"):
            if reply.summary.HasField(name):
                summary[name] = truth.array_of(getattr(reply.summary, name))
        alone = {"loss"} if has_block_labels or whole.is_elementwise else {"loss", "grad_labels"}
        wanted = {name: expected[name] for name in alone if name in expected}
        answers.check_same(summary, wanted)
        truth.check(whole.message, expected)


def _check_block(block, position, whole, expected, has_block_labels):
    assert block.first_row == position, "rows out of order"
    assert 1 <= block.rows <= whole.rows - position, "more rows than there are"
    for descriptor in block.DESCRIPTOR.fields[2:]:
        name, content = descriptor.name, getattr(block, descriptor.name)
        is_due = name in expected and (name != "grad_labels" or has_block_labels)
        if not is_due:
            assert not content, f"{name}, which nobody asked for"
            continue
        rows = expected[name].reshape(-1, 1)
        if name in _BY_ROW:
            rows = whole.by_row(expected[name])
        mine = np.ascontiguousarray(rows[position : position + block.rows])
        assert content == mine.tobytes(), f"{name} of rows {position} to {position + block.rows}"
