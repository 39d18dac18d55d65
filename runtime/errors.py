"""What the command line shows as one sentence, beside ValueError for a user's mistake."""


class Failure(Exception):
    """Something outside of the program failed, such as a disk that is full. The message is one sentence."""
