"""Whether services are there: the standard gRPC health check."""

import asyncio
from collections.abc import Mapping

import grpc.aio
from grpc_health.v1 import health_pb2, health_pb2_grpc

_TIMEOUT_S = 3.0


async def health(address: str) -> str:
    """What is wrong with the service at an address; empty when it is ready."""
    async with grpc.aio.insecure_channel(address) as channel:
        try:
            check = health_pb2_grpc.HealthStub(channel).Check
            answer = await check(health_pb2.HealthCheckRequest(), timeout=_TIMEOUT_S)
        except grpc.aio.AioRpcError as error:
            if error.code() is grpc.StatusCode.UNIMPLEMENTED:  # a service of the user without a health check answers
                return ""
            return (
                "does not answer" if error.code() is not grpc.StatusCode.DEADLINE_EXCEEDED else "did not answer in time"
            )
    return "" if answer.status == health_pb2.HealthCheckResponse.SERVING else "is not ready yet"


async def health_of(addresses: Mapping[str, str]) -> Mapping[str, str]:
    """`health` of each name's address, all asked at once."""
    answers = await asyncio.gather(*(health(address) for address in addresses.values()))
    return dict(zip(addresses, answers, strict=True))
