"""The error a person sees when a file cannot be used."""


class CheckpointError(ValueError):
    """A file that cannot be used as a DiGSeg checkpoint or LoRA; the message says what it is and what to do."""
