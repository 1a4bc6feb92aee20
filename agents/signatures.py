"""Constructors that take the fields of a settings dataclass as keywords."""

import inspect


def signature_with(cls: type, settings: type) -> inspect.Signature:
    """The signature of a constructor that ends in ``**settings``, with the settings listed one by one.

    For a class to assign to its ``__signature__``, which `inspect.signature` and `help` read.

    :param settings: the dataclass whose fields they are
    """
    _, *parameters = inspect.signature(cls.__init__).parameters.values()  # type: ignore[misc]
    own = [one for one in parameters if one.kind is not inspect.Parameter.VAR_KEYWORD]
    fields = inspect.signature(settings).parameters.values()
    keywords = [field.replace(kind=inspect.Parameter.KEYWORD_ONLY) for field in fields]
    return inspect.Signature([*own, *keywords])
