"""Celery's helpers, where its programs look for them."""

__all__: list[str] = []
