"""Where a run's files go when its nodes share no directory, and the proof that they share one.

One protocol, `Storage`, and a file per implementation; what workers deliver, they deliver through a `Courier`.
"""

from arena_ray.storage.address import fetch_missing, is_uri, local_copy, open_storage
from arena_ray.storage.base import NOT_DELIVERED, Storage
from arena_ray.storage.collector import FileCollector
from arena_ray.storage.courier import Courier, open_courier
from arena_ray.storage.leftovers import deliver_leftovers
from arena_ray.storage.mirror import Mirror
from arena_ray.storage.proof import FolderProof, prove, prove_storage
from arena_ray.storage.staging import open_staging, remove_staging
from arena_ray.storage.upload import send_all

__all__ = [
    "NOT_DELIVERED",
    "Courier",
    "FileCollector",
    "FolderProof",
    "Mirror",
    "Storage",
    "deliver_leftovers",
    "fetch_missing",
    "is_uri",
    "local_copy",
    "open_courier",
    "open_staging",
    "open_storage",
    "prove",
    "prove_storage",
    "remove_staging",
    "send_all",
]
