"""A task queue that speaks Celery's protocol."""

__all__: list[str] = []
