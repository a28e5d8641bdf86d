"""The one exception that stands for a mistake in what the user gave, as opposed to a bug in the toolkit."""


class InputError(ValueError):
    """A mistake in the user's input: a file, a config key, a command-line argument.

    The message is one line that says what was wrong, where, and what would be right. Commands print it and exit with
    status 2 (see `vrwkv.command`); library callers may catch it as a `ValueError`.
    """
