"""Where workers run: one protocol, and a pool in this process or on Ray."""

from arena_ray.pools.base import ChunkEvents as ChunkEvents
from arena_ray.pools.base import ChunkFinished as ChunkFinished
from arena_ray.pools.base import Place as Place
from arena_ray.pools.base import PoolEvent as PoolEvent
from arena_ray.pools.base import PoolNotice as PoolNotice
from arena_ray.pools.base import WorkerLost as WorkerLost
from arena_ray.pools.base import WorkerPool as WorkerPool
from arena_ray.pools.base import open_pool as open_pool

__all__ = ["ChunkEvents", "ChunkFinished", "Place", "PoolEvent", "PoolNotice", "WorkerLost", "WorkerPool", "open_pool"]
