"""The gRPC face of `numerics`: columns are read, one formula is applied, the answer is built; in a thread, for a column
may hold millions of elements."""

import asyncio
from typing import TYPE_CHECKING, Any

import grpc.aio
import numpy as np
from numpy.typing import NDArray

from tinsmith.arrays import tensor
from tinsmith.numerics.v1 import numerics_service_pb2 as pb
from tinsmith.numerics.v1 import numerics_service_pb2_grpc as pb_grpc
from tinsmith_server.orchestrator import numerics
from tinsmith_server.orchestrator.numerics_wire import (
    bad_tensor,
    column,
    flags,
    one_a_row,
    rows_message,
    values_message,
    weighted_sums,
)
from tinsmith_server.orchestrator.ragged import Ragged
from tinsmith_server.serving.errors import InvalidArgument

if TYPE_CHECKING:
    Context = grpc.aio.ServicerContext[Any, Any]

Floats = NDArray[np.float64]

_DISCOUNT, _TRACE, _BETA = 0.99, 0.95, 0.1
"""Defaults that the contract names."""


class NumericsService(pb_grpc.NumericsServiceServicer):
    """See `numerics_service.proto`."""

    async def MeanNll(self, request: pb.MeanNllRequest, context: "Context") -> pb.MeanNllResponse:
        return await asyncio.to_thread(_mean_nll, request)

    async def DiscountedSums(self, request: pb.DiscountedSumsRequest, context: "Context") -> pb.DiscountedSumsResponse:
        return await asyncio.to_thread(_discounted_sums, request)

    async def GeneralizedAdvantages(
        self, request: pb.GeneralizedAdvantagesRequest, context: "Context"
    ) -> pb.GeneralizedAdvantagesResponse:
        return await asyncio.to_thread(_generalized_advantages, request)

    async def GroupAdvantages(
        self, request: pb.GroupAdvantagesRequest, context: "Context"
    ) -> pb.GroupAdvantagesResponse:
        return await asyncio.to_thread(_group_advantages, request)

    async def DpoLoss(self, request: pb.DpoLossRequest, context: "Context") -> pb.DpoLossResponse:
        return await asyncio.to_thread(_dpo_loss, request)

    async def KlMetrics(self, request: pb.KlMetricsRequest, context: "Context") -> pb.KlMetricsResponse:
        return await asyncio.to_thread(_kl_metrics, request)


def _mean_nll(request: pb.MeanNllRequest) -> pb.MeanNllResponse:
    logprobs = column("logprobs", request.logprobs)
    weights = column("weights", request.weights, logprobs)
    mean, total = numerics.mean_nll(logprobs.flat, weights.flat)
    return pb.MeanNllResponse(mean_nll=mean, total_weight=total)


def _discounted_sums(request: pb.DiscountedSumsRequest) -> pb.DiscountedSumsResponse:
    values = column("values", request.values, scalars=False)
    sums = numerics.discounted_sums(
        values,
        request.discount,
        counts=flags(request, "mask", values),
        ends=flags(request, "episode_ends", values),
        allow_nonfinite=request.allow_nonfinite,
    )
    warnings = ["DISCOUNT_ABOVE_ONE"] if request.discount > 1 else []
    return pb.DiscountedSumsResponse(sums=rows_message(sums, values.offsets), warnings=warnings)


def _generalized_advantages(request: pb.GeneralizedAdvantagesRequest) -> pb.GeneralizedAdvantagesResponse:
    rewards = column("rewards", request.rewards)
    bootstrap = np.zeros(len(rewards))
    if request.HasField("bootstrap_values"):
        bootstrap = one_a_row("bootstrap_values", request.bootstrap_values, len(rewards))
    advantages, returns = numerics.generalized_advantages(
        rewards,
        column("values", request.values, rewards),
        bootstrap,
        discount=request.discount if request.HasField("discount") else _DISCOUNT,
        trace=getattr(request, "lambda") if request.HasField("lambda") else _TRACE,
        ends=flags(request, "episode_ends", rewards),
    )
    return pb.GeneralizedAdvantagesResponse(
        advantages=rows_message(advantages, rewards.offsets), returns=rows_message(returns, rewards.offsets)
    )


def _group_advantages(request: pb.GroupAdvantagesRequest) -> pb.GroupAdvantagesResponse:
    rewards = column("rewards", request.rewards)
    numerics.check_finite("rewards", rewards.flat[~np.isnan(rewards.flat)])
    advantages, constant = numerics.of_uneven_groups(rewards)
    left = np.flatnonzero(~(constant & request.drop_constant_groups))
    kept = Ragged(flat=numerics.float32("rewards", advantages), offsets=rewards.offsets).take(left)
    return pb.GroupAdvantagesResponse(
        advantages=rows_message(kept.flat, kept.offsets), groups=tensor(left), constant_groups=int(constant.sum())
    )


def _dpo_loss(request: pb.DpoLossRequest) -> pb.DpoLossResponse:
    chosen = _sums(request, "chosen_logprobs", "reference_chosen_logprobs", "chosen_weights")
    rejected = _sums(request, "rejected_logprobs", "reference_rejected_logprobs", "rejected_weights")
    if len(chosen[0]) != len(rejected[0]):
        raise bad_tensor(
            "rejected_logprobs", f"has {len(rejected[0])} rows for the {len(chosen[0])} of chosen_logprobs"
        )
    if not len(chosen[0]):
        raise InvalidArgument("there is no pair, and so no mean over pairs", reason="NO_PAIRS")
    beta = request.beta if request.HasField("beta") else _BETA
    found = numerics.dpo_loss(chosen[0], rejected[0], chosen[1], rejected[1], beta)
    return pb.DpoLossResponse(
        loss=found.loss,
        losses=values_message("losses", found.losses),
        chosen_rewards=values_message("chosen_rewards", found.chosen_rewards),
        rejected_rewards=values_message("rejected_rewards", found.rejected_rewards),
        accuracy=found.accuracy,
        margin=found.margin,
        chosen_gradient=values_message("chosen_gradient", found.chosen_gradient),
    )


def _sums(request: Any, model: str, reference: str, weights: str) -> tuple[Floats, Floats]:
    """Weighted sums of each row's logprobs by the model and by its reference, [pairs] each."""
    logprobs = column(model, getattr(request, model))
    of_reference = column(reference, getattr(request, reference), logprobs)
    weight = column(weights, getattr(request, weights), logprobs) if request.HasField(weights) else None
    return weighted_sums(model, logprobs, weight), weighted_sums(reference, of_reference, weight)


def _kl_metrics(request: pb.KlMetricsRequest) -> pb.KlMetricsResponse:
    sampler = column("sampler_logprobs", request.sampler_logprobs)
    trainer = column("trainer_logprobs", request.trainer_logprobs, sampler)
    counts = flags(request, "mask", sampler)
    q, p = (rows.flat if counts is None else rows.flat[counts] for rows in (sampler, trainer))
    numerics.check_finite("sampler_logprobs", q)
    numerics.check_finite("trainer_logprobs", p)
    found = numerics.kl_metrics(q, p)
    if found is None:
        return pb.KlMetricsResponse()
    return pb.KlMetricsResponse(kl_v1=found.v1, kl_v2=found.v2, entropy=numerics.entropy(q), tokens=len(q))
