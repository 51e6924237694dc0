"""Loggers of tasks; the module is called as Celery's is."""

from __future__ import annotations

import logging

__all__ = ["get_task_logger"]


def get_task_logger(name: str) -> logging.Logger:
    """Return the logger for a module's tasks.

    Args:
        name: The module's name.

    Example:
        >>> from manyhands.celery import get_task_logger
        >>> get_task_logger("shop").name
        'shop'
    """
    return logging.getLogger(name)
