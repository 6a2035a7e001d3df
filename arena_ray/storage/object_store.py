"""Buckets: ``s3://`` through s3fs, ``gs://`` through gcsfs. An object appears when its upload is complete."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from arena_ray.storage.base import PIECE_BYTES

#: Files above twice this are sent in parts of this size, one at a time: S3 takes no smaller ones than 5 MiB.
PART_BYTES = 8 * PIECE_BYTES

#: A server that does not answer is given up after so long, seconds.
CONNECT_S, READ_S = 10, 60

_S3_OPTIONS = {"connect_timeout": CONNECT_S, "read_timeout": READ_S, "retries": {"total_max_attempts": 2}}


class ObjectStore:
    """A prefix in a bucket.

    Credentials and endpoint come from the environment and files of the libraries (``AWS_*``, ``~/.aws``,
    ``GOOGLE_APPLICATION_CREDENTIALS``), or from fsspec's own (``FSSPEC_S3_ENDPOINT_URL`` ...).

    Args:
        uri: ``s3://BUCKET/PREFIX`` or ``gs://BUCKET/PREFIX``.
    """

    def __init__(self, uri: str) -> None:
        self.uri = uri.rstrip("/")
        self._put_options: dict[str, Any] = {"chunksize": PART_BYTES}
        if urlsplit(uri).scheme == "s3":
            self._put_options["max_concurrency"] = 1
            self._files = _open_s3()
        else:
            self._files = _open_gs()

    def put(self, source: Path, path: str) -> int:
        """Store a local file; see `Storage`."""
        target = f"{self.uri}/{path}"
        self._files.put_file(str(source), target, **self._put_options)
        return int(self._files.info(target)["size"])

    def get(self, path: str, target: Path) -> None:
        """Fetch into a local file; see `Storage`."""
        self._files.get_file(f"{self.uri}/{path}", str(target))

    def remove(self, path: str) -> None:
        """Remove an object; see `Storage`."""
        self._files.rm_file(f"{self.uri}/{path}")


def _open_s3() -> Any:
    import s3fs

    files = s3fs.S3FileSystem(use_listings_cache=False, skip_instance_cache=True, config_kwargs=_S3_OPTIONS)
    files.retries = 1  # Ours are counted and told; its own would hide an outage for long.
    return files


def _open_gs() -> Any:
    # Not what `fsspec.filesystem("gs")` gives: that asks a second service what kind of bucket it is, for a minute.
    from gcsfs.core import GCSFileSystem

    return GCSFileSystem(use_listings_cache=False, skip_instance_cache=True, requests_timeout=READ_S)
