"""ComputeMany for a client of generated code, against the real server."""

import grpc
import numpy as np
import pytest

from losswire_proto import tensors
from losswire_proto.losses import LossCall, SigmoidCrossEntropy
from losswire_proto.v1 import loss_service_pb2 as pb
from losswire_proto.v1 import loss_service_pb2_grpc
from losswire_proto.wire import encode_call


def compute(seed, rows, **options):
    random = np.random.default_rng(seed)
    return pb.ComputeRequest(
        options=encode_call(LossCall(grad_logits=True, **options)),
        labels=tensors.encode("labels", random.integers(0, 4, rows)),
        logits=tensors.encode("logits", random.normal(size=(rows, 4)).astype(np.float32)),
    )


@pytest.fixture
def stub(server):
    with grpc.insecure_channel(server.target) as channel:
        yield loss_service_pb2_grpc.LossServiceStub(channel)


def answers_to(stub, *messages):
    """The outcomes by id."""
    answers = {}
    for reply in stub.ComputeMany(iter(messages), timeout=30):
        for answer in reply.responses:
            assert answer.id not in answers
            answers[answer.id] = getattr(answer, answer.WhichOneof("outcome"))
    return answers


def test_answers_are_those_of_compute(stub):
    """Whatever shares a message, each answer is what Compute returns, to the byte."""
    shapes = [(seed, rows) for seed in range(40) for rows in (1, 3, 8)]
    requests = {
        2**40 + index: compute(seed, rows, reduction=("none", "sum", "mean")[seed % 3])
        for index, (seed, rows) in enumerate(shapes)
    }
    items = [pb.ManyRequest(id=key, request=each) for key, each in requests.items()]
    messages = [pb.ComputeManyRequest(requests=items[at : at + 17]) for at in range(0, 120, 17)]
    answers = answers_to(stub, *messages)
    assert answers == {key: stub.Compute(each) for key, each in requests.items()}


def test_refusals_are_those_of_compute(stub):
    """A bad request among good ones gets Compute's code and words, and harms no other."""
    good = compute(0, 3)
    bad = [compute(1, 3) for _ in range(4)]
    bad[0].labels.CopyFrom(tensors.encode("labels", np.array([0, 1, 4])))
    bad[1].logits.data = b"short"
    bad[2].ClearField("options")
    bad[3].options.CopyFrom(encode_call(LossCall(SigmoidCrossEntropy())))
    # Twice, since what is known of a kind of request must not let a bad one of its kind pass.
    mixed = [good, *bad, good, *bad, good]
    items = [pb.ManyRequest(id=index, request=each) for index, each in enumerate(mixed)]
    answers = answers_to(stub, pb.ComputeManyRequest(requests=items))
    for index, request in enumerate(mixed):
        if request is good:
            assert answers[index] == stub.Compute(good)
            continue
        with pytest.raises(grpc.RpcError) as caught:
            stub.Compute(request)
        assert answers[index].code == caught.value.code().value[0]
        assert answers[index].message == caught.value.details()


def test_ids_that_nobody_knows_are_passed_over(stub):
    """A message may do nothing but cancel, what is unknown or long answered included."""
    request = pb.ManyRequest(id=1, request=compute(0, 2))
    answers = answers_to(
        stub,
        pb.ComputeManyRequest(cancelled_ids=[1, 2, 3]),
        pb.ComputeManyRequest(requests=[request]),
    )
    assert set(answers) == {1}


def test_an_empty_message_ends_the_stream(stub):
    """A message that asks for nothing is a mistake."""
    with pytest.raises(grpc.RpcError) as caught:
        answers_to(stub, pb.ComputeManyRequest())
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert caught.value.details() == "requests: expected at least one, received none"
