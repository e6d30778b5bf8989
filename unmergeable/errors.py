"""The one family of errors: a sentence that says what was wrong, the value, and what to do."""


class UnmergeableError(Exception):
    """Base of every error this package raises on purpose; `exit_code` is the command line's."""

    exit_code = 2


class InputError(UnmergeableError):
    """A file, folder or setting that cannot be used as given."""


class KeyFileError(UnmergeableError):
    """A key file that is damaged, locked by a passphrase, or not the key of this model."""


class ManifestError(UnmergeableError):
    """A protected folder whose manifest is missing, damaged or at odds with its files."""


class PrecisionError(UnmergeableError):
    """A change that the storage dtype cannot hold exactly."""


class DownloadError(UnmergeableError):
    """Something that had to come over the network and did not."""


class MissingExtraError(UnmergeableError):
    """An optional part of the package that is not installed."""


class ClusterError(UnmergeableError):
    """A Ray cluster that cannot be reached, or that lost its machines; finished work is kept."""


class UnsupportedError(UnmergeableError):
    """A model whose architecture, class or tensor nobody has declared."""

    exit_code = 3
