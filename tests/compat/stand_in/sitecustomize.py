"""Run by every Python that is started with this directory on its path, before anything of its own."""

import substitute

substitute.install()
