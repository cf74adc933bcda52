"""Rows of the tables as messages of the contract."""

import json
from typing import Any

from sqlalchemy import Row

from tinsmith.orchestrator.v1 import RecipeConfig, RegisteredModel, Run, RunError, RunEvent
from tinsmith_server.orchestrator.store.clock import timestamp


def run_of(row: Row[Any]) -> Run:
    """A row of `runs`."""
    run = Run(
        run_id=row.run_id,
        recipe=row.recipe,
        config=RecipeConfig.FromString(row.config),
        state=row.state,
        step=row.step,
        total_steps=row.total_steps,
        create_time=timestamp(row.create_time_ns),
        checkpoint_uri=row.checkpoint_uri,
        sampler_uri=row.sampler_uri,
        metrics=json.loads(row.metrics),
        display_name=row.display_name,
        labels=json.loads(row.labels),
        last_event_seq=row.last_event_seq,
        tenant=row.tenant,
    )
    if row.end_time_ns is not None:
        run.end_time.CopyFrom(timestamp(row.end_time_ns))
    if row.error_reason:
        run.error.CopyFrom(RunError(reason=row.error_reason, message=row.error_message))
    return run


def event_of(row: Row[Any]) -> RunEvent:
    """A row of `events`."""
    return RunEvent.FromString(row.event)


def model_of(row: Row[Any]) -> RegisteredModel:
    """A row of `models`."""
    return RegisteredModel(
        model_id=row.model_id,
        display_name=row.display_name,
        version=row.version,
        run_id=row.run_id,
        sampler_uri=row.sampler_uri,
        parents=json.loads(row.parents),
        dataset_fingerprint=row.dataset_fingerprint,
        config_sha256=row.config_sha256,
        metrics=json.loads(row.metrics),
        create_time=timestamp(row.create_time_ns),
    )
