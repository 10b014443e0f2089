"""What can go wrong that a user can mend: a small tree of one-line messages.

Everything that is a user's mistake (a bad row, a wrong key, a missing file) or a photograph's own
fault derives from :class:`LandmarksError`; the command line prints its text as one line and exits
with :attr:`LandmarksError.exit_code`. Anything else is a bug and keeps its traceback.
"""

from __future__ import annotations

from typing import ClassVar


class LandmarksError(Exception):
    """A mistake that the message explains: which file, which row, what to do."""

    exit_code: ClassVar[int] = 2


class TableError(LandmarksError):
    """An image table that cannot be used: a bad row, a duplicate id, a missing column."""


class ConfigError(LandmarksError):
    """A config with a wrong key or a value outside its limits."""


class DeviceError(LandmarksError):
    """A device was asked for that this machine or installation does not have."""


class WeightsError(LandmarksError):
    """A network's weights are missing, cannot be downloaded, or do not fit the trunk."""


class RunError(LandmarksError):
    """A run on disk that is missing, incomplete, damaged, or made by another config."""


class WriteError(LandmarksError):
    """A file that cannot be written: a full disk, a folder that is read-only."""


class DownloadError(LandmarksError):
    """A file of a published data set could not be had, or is not what its checksum says."""


class TrainingError(LandmarksError):
    """A network that does not learn, or cannot from the photographs given."""


class ExplainError(LandmarksError):
    """An answer that cannot be explained, or not by the method that was asked for."""


class PhotographError(LandmarksError):
    """One photograph failed; its row keeps :attr:`status` and the text as the reason."""

    status: ClassVar[str] = "failed"


class FetchError(PhotographError):
    """The bytes of a photograph could not be had."""

    status: ClassVar[str] = "fetch_failed"


class DecodeError(PhotographError):
    """The bytes are not a whole photograph within the caps."""

    status: ClassVar[str] = "decode_failed"


class DescribeError(PhotographError):
    """The photograph was decoded, but holds nothing to describe."""

    status: ClassVar[str] = "describe_failed"


def failure(status: str, reason: str) -> PhotographError:
    """The error that a stored status and reason stand for."""
    kinds = {kind.status: kind for kind in (FetchError, DecodeError, DescribeError)}
    return kinds.get(status, PhotographError)(reason)


def without_remedy(error: RunError) -> str:
    """An error's message without its remedy, where that is what is done."""
    return str(error).rpartition(":")[0]


def first_line(error: object, otherwise: str = "") -> str:
    """The first line of what an error says, at most 200 letters of it.

    Args:
        error: or its message.
        otherwise: what stands for an error that says nothing; the name of its class if not given.
    """
    said = (str(error).splitlines() or [""])[0][:200]
    return said or otherwise or type(error).__name__
