"""How findings name modules and count things."""

from __future__ import annotations

from collections.abc import Sequence

from headwater.recording import Call

_MAX_NAMED = 3
NO_OPTIMIZER = "no optimiser was given: pass optimizer= to diagnose(), and the loss"


def named(call: Call) -> str:
    """A call's module with its type.

    >>> named(Call("layers.0", "Linear", 0, 1, 0, True, True, True, True, True))
    "'layers.0' (Linear)"
    """
    return f"'{call.module}' ({call.module_type})" if call.module else f"the model ({call.module_type})"


def listed(names: Sequence[str]) -> str:
    """Quoted names, the first three of them if there are more.

    >>> listed(["a", "b", "c", "d", "e"]), listed(["", "a"])
    ("'a', 'b', 'c' and 2 more", "the model and 'a'")
    """
    shown = [f"'{name}'" if name else "the model" for name in names[:_MAX_NAMED]]
    if len(names) > _MAX_NAMED:
        return f"{', '.join(shown)} and {len(names) - _MAX_NAMED} more"
    return f"{', '.join(shown[:-1])} and {shown[-1]}" if len(shown) > 1 else "".join(shown)


def counted(count: int, noun: str) -> str:
    """A number with its noun.

    >>> counted(1, "call"), counted(2, "Sigmoid call")
    ('1 call', '2 Sigmoid calls')
    """
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def distinct(names: Sequence[str]) -> tuple[str, ...]:
    """The names in their order, each once.

    >>> distinct(["b", "a", "b"])
    ('b', 'a')
    """
    return tuple(dict.fromkeys(names))
