"""What one simulated engine holds of the pool, under names of its own. Without a pool there is always enough."""

from aegis_workers.simulator.options import Options
from aegis_workers.simulator.pool import Pool

SETTLE_EVERY_S = 0.1


class Memory:
    """The memory of one engine. Every method raises `PoolUnusable` where the pool's file cannot be used."""

    def __init__(self, options: Options) -> None:
        self._gb = options.memory_gb or 0.0
        self._return_s = options.memory_return_s
        self._total_gb = options.memory_total_gb
        self._held: dict[str, str] = {}
        self._left: dict[str, str] = {}
        self.pool = None if options.memory_pool is None else Pool(options.memory_pool)

    def open(self) -> None:
        """See to it that the pool is there."""
        if self.pool is not None:
            self.pool.open(self._total_gb)

    def take(self, name: str) -> None:
        """Hold what the engine needs once, under `name`; what of that name is on its way back stays. Raises `TooLittleFree`."""
        if self.pool is not None and name not in self._held:
            self._held[name] = self.pool.take(self._gb, return_s=self._return_s, undo=self._left.get(name))
            self._left.pop(name, None)

    def give_back(self, name: str) -> None:
        """Begin to give back what is held under `name`; nothing where nothing is."""
        held = self._held.pop(name, None)
        if self.pool is not None and held is not None:
            self.pool.give_back(held)
            self._left[name] = held

    def give_all_back(self) -> None:
        """Begin to give everything back."""
        for name in list(self._held):
            self.give_back(name)

    def settle(self) -> None:
        """Bring the pool's figures up to now: of processes that were killed, too."""
        if self.pool is not None:
            self.pool.settle()
