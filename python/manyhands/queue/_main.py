"""What the script is called."""

from __future__ import annotations

import os
import sys

__all__ = ["main_name"]


def main_name() -> str:
    """What the script's module is called when somebody imports it."""
    main = sys.modules.get("__main__")
    spec = getattr(main, "__spec__", None)
    if spec is not None and spec.name:
        return str(spec.name).removesuffix(".__main__")
    file = getattr(main, "__file__", None)
    # Worker processes come here, and `pathlib` is large.
    return os.path.splitext(os.path.basename(file))[0] if file else "__main__"  # noqa: PTH119, PTH122
