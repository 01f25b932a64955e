"""The exceptions that users see. Each says what happened, what was expected, what was got, and what to do."""


class Flow3rError(Exception):
    """Base of every error that the command line prints as one line, without a traceback."""


class InputError(Flow3rError):
    """A video, an image or a folder that cannot be used."""


class CheckpointError(Flow3rError):
    """A weight file that is damaged, unsafe, or of another layout."""


class LabelStoreError(Flow3rError):
    """A store of flow labels that is damaged, of another version, or made with other settings."""


class TrainingError(Flow3rError):
    """A run that cannot go on: a non-finite loss, a checkpoint of another configuration."""
