"""Faults of ours: the log has the cause, the caller gets a number to ask about."""

from __future__ import annotations

import uuid

import structlog


def report(error: Exception) -> str:
    """Logs an error with its traceback; what the caller is told of it."""
    incident = uuid.uuid4().hex[:12]
    structlog.get_logger().error("incident", incident=incident, exc_info=error)
    return f"the server failed; its log has the cause under {incident}"
