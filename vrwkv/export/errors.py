"""The failure of an export that is nobody's mistake."""


class ExportFailure(RuntimeError):
    """The exported file does not compute what the model does, or holds what it must not. One line says where."""
