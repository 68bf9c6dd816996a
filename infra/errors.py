"""Operational errors: files, storage, clusters, runs.

OmniForcingError                     (omniforcing_model.errors)
+-- ConfigError     (ValueError)     a preset, an override or a command line is wrong
+-- MediaError      (ValueError)     a clip cannot be read as video with sound
|  +-- DamagedClipError              its bytes are not those that were written
|  +-- DecoderEndedError             the program that decodes it ended by itself
+-- DatasetError    (ValueError)     a dataset is missing, incomplete or of another schema
+-- StoreError      (OSError)        object storage refuses, is not there or does not answer
+-- RewriterError   (OSError)        the server that rewrites captions serves none of them
+-- MachineError    (OSError)        a disk is full or fails, files or memory run out
+-- CheckpointError (ValueError)     a checkpoint is missing, incomplete or of another digest
+-- ClusterError    (RuntimeError)   Ray, a port or a child process did not do its part
+-- OwnershipError  (RuntimeError)   another run owns an output, or has taken it over
+-- ServerError     (RuntimeError)   a streaming endpoint refused or broke off
    +-- RefusedError                 it refused, and says so with an HTTP status
    +-- PairLostError                a pair of replicas goes on with none of its streams
"""

from omniforcing_model.errors import OmniForcingError


class ConfigError(OmniForcingError, ValueError):
    """A preset, an override or an argument is wrong; the command ends with status 2."""


class MediaError(OmniForcingError, ValueError):
    """A file is not a readable clip; the message says what is wrong with it."""


class DamagedClipError(MediaError):
    """The bytes of a clip are not those that were written; the message says what tells."""


class DecoderEndedError(MediaError):
    """The program that decodes a clip ended by itself before its work was done; says why."""


class DatasetError(OmniForcingError, ValueError):
    """A dataset is missing, incomplete, or was written with another schema."""


class StoreError(OmniForcingError, OSError):
    """Object storage cannot be used at all: credentials, bucket or endpoint; says which and why."""


class RewriterError(OmniForcingError, OSError):
    """A server that rewrites captions is not there, or refuses its key or the model's name."""


class MachineError(OmniForcingError, OSError):
    """A disk is full or fails, a mount is lost, files or memory run out: no input is to blame."""


class CheckpointError(OmniForcingError, ValueError):
    """A checkpoint or a model URI does not resolve to complete weights."""


class ClusterError(OmniForcingError, RuntimeError):
    """Ray, a port or a child process did not come up or went away."""


class OwnershipError(OmniForcingError, RuntimeError):
    """Another run owns this output, or has taken it over; says who it is and since when."""


class ServerError(OmniForcingError, RuntimeError):
    """A streaming endpoint refused a request or broke the stream off."""


class RefusedError(ServerError):
    """A request that an endpoint does not serve; `status` is the HTTP status that says so."""

    def __init__(self, message: str, status: int = 422, retry_after_s: int | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.retry_after_s = retry_after_s


class PairLostError(ServerError):
    """A pair of replicas lost a half or its exchange: all of its streams end, and it forms anew."""
