"""From the publishers' files to clips: annotations, media, shards, and the generated world."""


class DataError(ValueError):
    """Data that cannot be used; the message names the file or rows and the remedy."""
