"""ComputeMany: many requests on one stream, orders and ids as they come.

A script sends messages, holds replies back, lets time go by, cancels, or stops the server.
"""

from collections import Counter

from fuzz import answers
from fuzz.answers import Code, Refused
from fuzz.house import House
from fuzz.scripts import Condition, Kind
from losswire_proto.v1 import loss_service_pb2 as pb

KINDS = (Kind.SEND, Kind.SEND, Kind.PAUSE, Kind.WAIT, Kind.HOLD, Kind.TAKE, Kind.CANCEL, Kind.DRAIN)
MESSAGES = {Kind.SEND: pb.ComputeManyRequest}

_BY_NUMBER = {code.value[0]: code for code in Code}


async def play(script, engine):
    """Makes one call of a script's messages."""
    async with House(script, engine) as house:
        answer = await house.stream("ComputeMany", script.steps)
    kinds = {step.kind for step in script.steps}
    _check_end(answer, kinds, script)
    _check_answers(answer, script, engine)


def _messages(script):
    """What was sent, up to the first that is no message."""
    for step in script.steps:
        if step.kind is Kind.SEND:
            yield answers.parsed(pb.ComputeManyRequest, step.content)


def _check_end(answer, kinds, script):
    if answer.is_cancelled:
        assert Kind.CANCEL in kinds, "a call is cancelled that nobody cancelled"
        return
    if answer.code is None:
        for message in _all_or_none(script):
            assert message.requests or message.cancelled_ids, "an empty message was taken"
        return
    allowed = {Code.INVALID_ARGUMENT}
    if Kind.DRAIN in kinds:
        allowed |= {Code.UNAVAILABLE}
    answers.check_status(answer.code, answer.details, allowed)
    if answer.code is Code.INVALID_ARGUMENT:
        try:
            sent = list(_messages(script))
        except Refused:
            return
        ids = Counter(each.id for message in sent for each in message.requests)
        is_empty = any(not (each.requests or each.cancelled_ids) for each in sent)
        assert is_empty or max(ids.values(), default=0) > 1, f"ended for: {answer.details}"


def _all_or_none(script):
    try:
        return list(_messages(script))
    except Refused as error:
        raise AssertionError(f"what is no message was taken: {error}") from error


def _check_answers(answer, script, engine):
    """Each answer is one of the requests of its id; and each request has one, if the call ended."""
    sent, unwanted = {}, set()
    try:
        for message in _messages(script):
            unwanted |= set(message.cancelled_ids)
            for request in message.requests:
                sent.setdefault(request.id, []).append(request)
    except Refused:
        pass
    answered = Counter()
    for reply in answer.replies:
        responses = pb.ComputeManyResponse.FromString(reply).responses
        assert responses, "a reply without answers"
        for response in responses:
            assert response.id in sent, f"an answer to {response.id}, which nobody asked"
            answered[response.id] += 1
            _check_answer(response, sent[response.id], script, engine)
    for identifier, requests in sent.items():
        assert answered[identifier] <= len(requests), f"{identifier} has too many answers"
        if answer.code is None and not answer.is_cancelled and identifier not in unwanted:
            assert answered[identifier] == len(requests), f"{identifier} has no answer"


def _check_answer(response, requests, script, engine):
    """An answer has to suit one of the requests that had its id."""
    faults = []
    for request in requests:
        try:
            _check_one(response, request, script, engine)
        except AssertionError as error:
            faults.append(error)
        else:
            return
    raise faults[0]


def _check_one(response, request, script, engine):
    match response.WhichOneof("outcome"):
        case "response":
            assert request.HasField("request"), "an answer to nothing"
            answers.check_results(request.request, answers.arrays_in(response.response), engine)
        case "error":
            code, details = _BY_NUMBER[response.error.code], response.error.message
            allowed = answers.REFUSED | {Code.NOT_FOUND}
            if Condition.LITTLE_ROOM in script.condition:
                allowed |= {Code.RESOURCE_EXHAUSTED}
            if Condition.SHORT_DEADLINE in script.condition or request.HasField("timeout_ms"):
                allowed |= {Code.DEADLINE_EXCEEDED}
            answers.check_status(code, details, allowed)
            is_full = code in answers.FULL or "queue_bytes" in details
            has_time = not request.HasField("timeout_ms") or request.timeout_ms
            if not is_full and has_time and request.HasField("request"):
                answers.check_refusal(request.request, details)
        case _:
            raise AssertionError("an answer of nothing")
