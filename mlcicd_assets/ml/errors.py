"""Every error this package raises on purpose; each message says what to do.

MlcicdError
├── SettingsError            an environment variable is missing or wrong
├── StoreError               object storage does not answer, or refuses (an OSError too)
│   └── StoreDenied          the keys in the environment may not do this
├── SpecError                a defs.yaml asks for something that cannot be done
├── DataError                a table, file or frame is not what it must be
│   ├── SchemaMismatch       columns or types differ from the data contract
│   ├── UnreadableFile       a landing file cannot be parsed
│   ├── TableRewound         a table lost commits, or has others than before
│   └── NotEnoughData        too few mature rows to train or to judge
├── BundleError              a model bundle cannot be made, read or trusted
│   ├── UnsupportedModel     no plain-array form exists for this estimator
│   └── DigestMismatch       a bundle's files are not what its digest says
├── PageError                an evaluation page could not be made; no release depends on it
├── GateBlocked              a required verdict is missing, failed or made for something else
├── NotAllowed               the caller is no operator
├── LedgerError              the ledger cannot be read, or its chain is broken
│   └── LedgerMoved          someone else wrote first; read again, decide again
├── ReleaseError             a release could not be carried out
│   ├── EndpointUnreachable  no server answers at a configured endpoint
│   ├── PointerMoved         the release pointer is not what was read before
│   ├── RegistryError        the registry of images does not answer, refuses or has other content
│   └── SmokeTestFailed      the server's scores are not the offline scores
└── RequestError             a scoring request is wrong; carries its HTTP status
"""


class MlcicdError(Exception):
    """Base of everything raised on purpose."""


class SettingsError(MlcicdError):
    """An environment variable is missing or wrong; the message names it."""


class StoreError(MlcicdError, OSError):
    """Object storage does not answer, or refuses; like a disk's error, nothing is decided."""


class StoreDenied(StoreError):
    """The keys in the environment may not do this."""


class SpecError(MlcicdError):
    """A model's defs.yaml asks for something that cannot be done."""


class DataError(MlcicdError):
    """A table, file or frame is not what it must be."""


class SchemaMismatch(DataError):
    """Columns or types differ from the data contract."""


class UnreadableFile(DataError):
    """A landing file cannot be parsed."""


class TableRewound(DataError):
    """A table lost commits that were seen before, or has others in their place."""


class NotEnoughData(DataError):
    """Too few mature rows to train or to judge."""


class BundleError(MlcicdError):
    """A model bundle cannot be made, read or trusted."""


class UnsupportedModel(BundleError):
    """No plain-array form exists for this estimator."""


class DigestMismatch(BundleError):
    """A bundle's files are not what its digest says."""


class PageError(MlcicdError):
    """An evaluation page could not be made; no release depends on it."""


class GateBlocked(MlcicdError):
    """A required verdict is missing, failed or made for something else."""


class NotAllowed(MlcicdError):
    """The caller is no operator."""


class LedgerError(MlcicdError):
    """The ledger cannot be read, or its chain is broken."""


class LedgerMoved(LedgerError):
    """Someone else wrote first; read again, decide again."""


class ReleaseError(MlcicdError):
    """A release could not be carried out; the old version stays live."""


class EndpointUnreachable(ReleaseError):
    """No server answers at a configured endpoint."""


class PointerMoved(ReleaseError):
    """The release pointer is not what was read before."""


class RegistryError(ReleaseError):
    """The registry of images does not answer, refuses, or has other content."""


class SmokeTestFailed(ReleaseError):
    """The server's scores are not the offline scores."""


class RequestError(MlcicdError):
    """A scoring request is wrong; `status` is its HTTP status (4xx)."""

    def __init__(self, message: str, *, status: int = 400) -> None:
        super().__init__(message)
        self.status = status
