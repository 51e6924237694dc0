"""A section that only one may be in at a time, entered again and again under a lock."""

import asyncio


class Section:
    """Counts how many are inside, how many were at most, and how often somebody was."""

    def __init__(self, lock):
        self.lock = lock
        self.inside = self.most = self.total = 0

    def enter(self):
        self.inside += 1
        self.most = max(self.most, self.inside)

    def leave(self):
        self.total += 1
        self.inside -= 1

    def work(self, times, rest):
        """Be inside so many times, resting there; for threads and greenlets."""
        for _ in range(times):
            with self.lock:
                self.enter()
                rest()
                self.leave()

    async def task(self, times):
        """The same, for a coroutine."""
        for _ in range(times):
            async with self.lock:
                self.enter()
                await asyncio.sleep(0)
                self.leave()

    async def tasks(self, times):
        """Three of them."""
        await asyncio.gather(*(self.task(times) for _ in range(3)))
