"""Compute: bytes to request, validation, engine, reply.

A script sends messages one by one to one server, which remembers the kinds it has met.
"""

from fuzz import answers
from fuzz.answers import Code
from fuzz.house import House
from fuzz.scripts import Condition, Kind
from losswire_proto.v1 import loss_service_pb2 as pb

KINDS = (Kind.SEND,)
MESSAGES = {Kind.SEND: pb.ComputeRequest}


async def play(script, engine):
    """Makes the calls of a script."""
    async with House(script, engine) as house:
        for step in script.steps:
            if step.kind is Kind.SEND:
                answer = await house.unary("Compute", step.content)
                check(step.content, answer, script.condition, engine)


def check(payload, answer, condition, engine):
    """Holds the answer of one call to what was sent."""
    if answer.code is None:
        [reply] = answer.replies
        message = answers.parsed(pb.ComputeRequest, payload)
        response = pb.ComputeResponse.FromString(reply)
        answers.check_results(message, answers.arrays_in(response), engine)
        return
    allowed = answers.REFUSED | {Code.NOT_FOUND}
    if Condition.LITTLE_ROOM in condition:
        allowed |= {Code.RESOURCE_EXHAUSTED}
    answers.check_status(answer.code, answer.details, allowed)
    if "queue_bytes" not in answer.details:
        answers.check_refusal(payload, answer.details)
