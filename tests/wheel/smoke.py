"""A server and a client from an installed wheel; run by smoke.sh outside the checkout."""

import asyncio
from importlib.resources import files
from pathlib import Path

import losswire
import losswire_proto
import losswire_server

for package in (losswire, losswire_server, losswire_proto):
    assert "site-packages" in package.__file__, package.__file__
    assert Path(package.__file__).with_name("py.typed").exists()
assert files("losswire_proto.v1").joinpath("loss_service.proto").is_file()


async def ask(target):
    """The same through the asynchronous client."""
    async with losswire.AsyncClient(target) as client:
        return await client.softmax_cross_entropy([[2.0, 1.0, 0.5]], [0])


with losswire_server.LocalServer() as server, losswire.Client(server.target) as client:
    result = client.softmax_cross_entropy([[2.0, 1.0, 0.5]], [0])
    assert abs(result.loss[0] - 0.4643687841079449) < 1e-15, result
    assert asyncio.run(ask(server.target)).loss == result.loss
    assert client.server_info().version == losswire.__version__
