"""Celery's settings: their names, old and new, and what they are here."""

from __future__ import annotations

import importlib
import re
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping, MutableMapping
from datetime import timedelta, timezone, tzinfo
from types import ModuleType
from typing import Any

__all__ = ["CelerySettingWarning"]


_PACKAGE = __file__.removesuffix("celery/settings.py")

_CRON = "there is no scheduler yet: send the tasks at their times from cron or a systemd timer"
_TLS = "say it in the address, as in rediss:// or amqps://"
_INSTEAD = {
    "beat_schedule": _CRON,
    "broker_use_ssl": _TLS,
    "redis_backend_use_ssl": _TLS,
    "task_queues": "declare those at the server that differ: queues that are there are taken as they are",
    "task_annotations": "expected a dict: task_annotations = {'tasks.add': {'rate_limit': '10/s'}}",
    "task_routes": "expected patterns and where they go: task_routes = {'feed.*': {'queue': 'feeds'}}",
    "worker_pool": "there are prefork and threads, and `async def` tasks, of which thousands wait at once",
}
"""What to do about settings that cannot be used."""


class CelerySettingWarning(UserWarning):
    """A setting or an option that Celery has, or may have, and manyhands has not; it is left out."""


def _warn(kind: str, name: str, why: str = "manyhands has none like it") -> None:
    instead = _INSTEAD.get(_understood(name))
    hint = f"\nhint: {instead}" if instead else ""
    warnings.warn(
        f"could not use the {kind} `{name}`: {why}, and goes on without{hint}",
        CelerySettingWarning,
        stacklevel=_outside(),
    )


def _outside() -> int:
    """How far up the caller is who does not belong to manyhands."""
    frame, level = sys._getframe(1), 1
    while frame.f_back is not None and frame.f_code.co_filename.startswith(_PACKAGE):
        frame, level = frame.f_back, level + 1
    return level


def _seconds(value: Any) -> Any:
    return value.total_seconds() if isinstance(value, timedelta) else value


_DEFAULTS: dict[str, Any] = {
    "accept_content": ["json"],
    "broker_connection_timeout": 4.0,
    "broker_heartbeat": 120,
    "broker_transport_options": {},
    "broker_url": "amqp://guest:guest@localhost:5672//",
    "enable_utc": True,
    "imports": (),
    "include": (),
    "result_backend": None,
    "result_backend_transport_options": {},
    "result_expires": timedelta(days=1),
    "result_serializer": "json",
    "task_acks_late": False,
    "task_always_eager": False,
    "task_annotations": None,
    "task_compression": None,
    "task_default_priority": None,
    "task_default_queue": "celery",
    "task_default_queue_type": "classic",
    "task_default_rate_limit": None,
    "task_eager_propagates": False,
    "task_ignore_result": False,
    "task_publish_retry": True,
    "task_queue_max_priority": None,
    "task_queues": None,
    "task_reject_on_worker_lost": False,
    "task_routes": None,
    "task_serializer": "json",
    "task_soft_time_limit": None,
    "task_time_limit": None,
    "task_track_started": False,
    "timezone": None,
    "worker_concurrency": None,
    "worker_disable_rate_limits": False,
    "worker_max_memory_per_child": None,
    "worker_max_tasks_per_child": None,
    "worker_pool": "prefork",
    "worker_prefetch_multiplier": 4,
}
"""What is understood, and what it is in Celery if nobody says otherwise."""

# fmt: off
_NEEDLESS = frozenset(
    (
        "broker_connection_max_retries", "broker_connection_retry",
        "broker_connection_retry_on_startup", "broker_heartbeat_checkrate",
        "broker_login_method", "broker_pool_limit", "broker_channel_error_retry",
        "deprecated_settings", "redis_backend_health_check_interval", "redis_max_connections",
        "redis_retry_on_timeout", "redis_socket_connect_timeout", "redis_socket_keepalive",
        "redis_socket_timeout", "result_cache_max", "result_persistent",
        "result_accept_content", "task_create_missing_queues", "task_default_delivery_mode",
        "task_default_exchange", "task_default_exchange_type", "task_default_routing_key",
        "task_protocol", "task_publish_retry_policy", "task_remote_tracebacks",
        "task_send_sent_event", "worker_cancel_long_running_tasks_on_connection_loss",
        "worker_enable_remote_control",
        "worker_hijack_root_logger", "worker_log_color", "worker_log_format",
        "worker_lost_wait", "worker_pool_restarts", "worker_proc_alive_timeout",
        "worker_redirect_stdouts", "worker_redirect_stdouts_level", "worker_send_task_events",
        "worker_task_log_format", "worker_timer", "worker_timer_precision",
    )
)
# fmt: on
"""Settings of Celery that say how it does what is done here anyway, or looks after what is not here."""

_OLD_NAMES = {
    "celerybeat_schedule": "beat_schedule",
    "celery_always_eager": "task_always_eager",
    "celery_eager_propagates_exceptions": "task_eager_propagates",
    "celery_task_result_expires": "result_expires",
    "celeryd_concurrency": "worker_concurrency",
    "celeryd_max_tasks_per_child": "worker_max_tasks_per_child",
    "celeryd_pool": "worker_pool",
    "celeryd_prefetch_multiplier": "worker_prefetch_multiplier",
    "celeryd_task_soft_time_limit": "task_soft_time_limit",
    "celeryd_task_time_limit": "task_time_limit",
    "backend": "result_backend",
    "broker": "broker_url",
}
_KNOWN_TRANSPORT_OPTIONS = frozenset(
    ("visibility_timeout", "global_keyprefix", "confirm_publish", "fanout_prefix", "fanout_patterns")
)
_SETTING_LIKE = re.compile(
    r"(accept|beat|broker|control|event|imports|include|redis|result|task|worker)(_|$)"
)


def _understood(name: str) -> str:
    """A setting's name as Celery writes it today."""
    lower = name.lower()
    if lower in _OLD_NAMES:
        return _OLD_NAMES[lower]
    bare = lower.removeprefix("celery_")
    for guess in (lower, bare, f"task_{bare}", f"result_{bare}", f"worker_{bare}"):
        if guess in _DEFAULTS or guess in _NEEDLESS:
            return guess
    return lower if name.islower() else bare


class _Conf(MutableMapping[str, Any]):
    """The settings of an application: a mapping, and attributes."""

    _given: dict[str, Any]
    _renew: Callable[[], None]

    def __init__(self, given: Mapping[str, Any], renew: Callable[[], None]) -> None:
        self.__dict__.update(_given=dict(given), _renew=renew)

    def __getitem__(self, name: str) -> Any:
        name = _understood(name)
        return self._given[name] if name in self._given else _DEFAULTS[name]

    def __setitem__(self, name: str, value: Any) -> None:
        self.update({name: value})

    def __delitem__(self, name: str) -> None:
        del self._given[_understood(name)]
        self._renew()

    def __iter__(self) -> Iterator[str]:
        return iter({**_DEFAULTS, **self._given})

    def __len__(self) -> int:
        return len({**_DEFAULTS, **self._given})

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError:
            raise AttributeError(f"there is no setting {name!r}") from None

    def __setattr__(self, name: str, value: Any) -> None:
        self.update({name: value})

    def update(self, *given: Any, **more: Any) -> None:
        """Take settings over; those that are not known are warned of."""
        for name, value in dict(*given, **more).items():
            known = _understood(name)
            if known not in _DEFAULTS and known not in _NEEDLESS:
                _warn("setting", name)
            self._given[known] = value
        self._renew()


def _settings_of(source: Any, namespace: str | None) -> dict[str, Any]:
    """The settings that a module, an object, a mapping, or something by that name holds."""
    if isinstance(source, str):
        module, _, attribute = source.partition(":")
        try:
            source = importlib.import_module(module)
        except ModuleNotFoundError:
            # Celery takes "package.module.attribute", too.
            module, _, attribute = source.rpartition(".")
            if not module:
                raise
            source = importlib.import_module(module)
        for part in filter(None, attribute.split(".")):
            source = getattr(source, part)
    is_mapping = isinstance(source, Mapping)
    names = list(source) if is_mapping else [name for name in dir(source) if not name.startswith("_")]
    found = {name: source[name] if is_mapping else getattr(source, name) for name in names}
    if namespace:
        prefix = f"{namespace}_"
        return {
            name[len(prefix) :].lower(): value for name, value in found.items() if name.startswith(prefix)
        }
    if is_mapping:
        return found
    # A module holds more than settings.
    return {
        name: value
        for name, value in found.items()
        if _understood(name) in _DEFAULTS
        or _understood(name) in _NEEDLESS
        or (_SETTING_LIKE.match(name.lower()) and not callable(value) and not isinstance(value, ModuleType))
    }


def _broker_address(given: Any, heartbeat: float | None = None) -> str:
    first, *others = given.split(";") if isinstance(given, str) else given
    if others:
        _warn("setting", "broker_url", f"found {1 + len(others)} addresses: manyhands uses the first")
    address = str(first) if "://" in first else f"{first}://"
    if heartbeat and address.startswith(("amqp", "pyamqp")) and "?" not in address:
        address += f"?heartbeat={int(heartbeat)}"
    return address


def _named(modules: Any) -> tuple[str, ...]:
    """One module, or several."""
    return (modules,) if isinstance(modules, str) else tuple(modules or ())


def _queue_names(queues: Any) -> list[str]:
    """The names of the queues that ``task_queues`` lists, which are Kombu's, or names themselves."""
    return [str(getattr(queue, "name", queue)) for queue in queues or ()]


def _declaration(conf: _Conf) -> dict[str, Any]:
    """How queues are declared: as the entries of ``task_queues`` say, or else the settings for all."""
    # With "classic" Celery declares nothing, like all who do not say it.
    kind = "quorum" if conf.task_default_queue_type == "quorum" else None
    usual = (conf.task_queue_max_priority, kind)
    said = {_arguments_of(queue, usual) for queue in conf.task_queues or ()} or {usual}
    if len(said) > 1:
        _warn("setting", "task_queues", "found queues that are declared in several ways")
        said = {(None, None)}
    return dict(zip(("max_priority", "queue_type"), said.pop(), strict=True))


def _arguments_of(queue: Any, usual: tuple[Any, Any]) -> tuple[Any, Any]:
    told = getattr(queue, "queue_arguments", None) or {}
    priority = told.get("x-max-priority", getattr(queue, "max_priority", None))
    return usual[0] if priority is None else priority, told.get("x-queue-type", usual[1])


_POOLS = {"prefork": "process", "processes": "process", "threads": "thread", "solo": "thread"}


def _worker_options(conf: _Conf) -> dict[str, Any]:
    """What the settings say of workers; what they do not say is left to the worker."""
    pool = conf._given.get("worker_pool", "")
    if pool and pool not in _POOLS:
        _warn("setting", "worker_pool", f"found {pool!r}, which manyhands has not")
    told = {
        "on": _POOLS.get(pool),
        "concurrency": 1 if pool == "solo" else conf.worker_concurrency,
        # Unless somebody says so, the worker's own way is better than Celery's.
        "prefetch_multiplier": conf._given.get("worker_prefetch_multiplier"),
        "max_tasks_per_worker": conf.worker_max_tasks_per_child,
        # Celery counts KiB.
        "max_memory_per_worker": conf.worker_max_memory_per_child and conf.worker_max_memory_per_child * 1024,
    }
    return {option: value for option, value in told.items() if value}


def _result_address(address: str | None) -> str:
    if not address or address.startswith("disabled"):
        return ""
    if address in ("rpc", "redis"):
        return f"{address}://"
    address = address.removeprefix("db+").removeprefix("cache+")
    scheme, separator, rest = address.partition("://")
    return f"{scheme.partition('+')[0]}{separator}{rest}"


def _zone(name: Any) -> tzinfo:
    if name is None or isinstance(name, tzinfo):
        return name or timezone.utc
    from zoneinfo import ZoneInfo

    return timezone.utc if str(name).upper() == "UTC" else ZoneInfo(str(name))
