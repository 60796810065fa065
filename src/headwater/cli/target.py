"""From `pkg.module:factory` or `path/to/file.py:factory` to the problem that the factory returns."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import random
import sys
from collections.abc import Callable
from difflib import get_close_matches
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from headwater.cli.errors import CommandError, described

if TYPE_CHECKING:
    from headwater.capture import Problem

EXPECTED = "pkg.module:factory or path/to/file.py:factory, where factory() returns a headwater.Problem"


def load_problem(target: str, *, seed: int = 0) -> Problem:
    """The problem that a target names.

    Python's, NumPy's and PyTorch's generators are seeded before anything of it is imported, so that each run builds
    the same model.

    Args:
        target: module or file, a colon, and the name of a function that returns a problem (or of a problem).
        seed: of the generators.

    Raises:
        CommandError: nothing is there, it fails, or it returns something else.

    >>> load_problem("no_such_file.py:problem")
    Traceback (most recent call last):
    headwater.cli.errors.CommandError: there is no file 'no_such_file.py'...
    """
    name, value = load_member(target, EXPECTED, seed=seed)
    return _checked(made(value, name) if is_factory(value) else value, name)


def load_member(target: str, expected: str, *, seed: int = 0) -> tuple[str, Any]:
    """What a target names, and the name of it; the generators are seeded before anything is imported.

    Args:
        target: module or file, a colon, and a name in it.
        expected: what to say where that is not what arrived.
        seed: of the generators.

    Raises:
        CommandError: nothing is there, or importing it fails.

    >>> load_member("math:pi", "a number")
    ('pi', 3.14...)
    """
    source, separator, name = target.rpartition(":")
    if not separator or not source or not name:
        raise CommandError(f"expected {expected}, got '{target}'{_hint_at_colon(target)}")
    _seed_generators(seed)
    module = _file_module(Path(source)) if _is_file(source) else _named_module(source)
    return name, _member(module, name, source)


def _hint_at_colon(target: str) -> str:
    module = target.rstrip(":")
    return f"; name the function too, as in '{module}:make_problem'" if module else ""


def _is_file(source: str) -> bool:
    return source.endswith(".py") or "/" in source or "\\" in source


def _seed_generators(seed: int) -> None:
    import numpy as np
    import torch

    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


def _file_module(path: Path) -> ModuleType:
    if not path.is_file():
        raise CommandError(f"there is no file '{path}'{_similar([p.name for p in _siblings(path)], path.name)}")
    name = path.stem if path.stem not in sys.modules else f"{path.stem}_file"  # a file torch.py must not be torch
    spec = importlib.util.spec_from_file_location(name, path.resolve())
    if spec is None or spec.loader is None:
        raise CommandError(f"expected a Python file (.py), got '{path}'")
    module = importlib.util.module_from_spec(spec)
    sys.path.insert(0, str(path.resolve().parent))  # as `python path/to/file.py` does, for what it imports
    sys.modules[name] = module  # dataclasses and pickle look their module up
    _called(f"importing '{path}' failed", spec.loader.exec_module, module)
    return module


def _siblings(path: Path) -> list[Path]:
    return sorted(path.parent.glob("*.py")) if path.parent.is_dir() else []


def _named_module(name: str) -> ModuleType:
    sys.path.insert(0, str(Path.cwd()))
    try:
        found = all(importlib.util.find_spec(part) for part in _packages(name))
    except (ImportError, ValueError, AttributeError):  # a parent that is no package, an empty or relative name
        found = False
    except Exception as error:
        raise _failed(f"importing '{name}' failed", error) from error
    if not found:
        raise CommandError(
            f"there is no module '{name}' in the current folder or among the installed packages"
            " (for a file, write path/to/file.py:factory)"
        )
    return _called(f"importing '{name}' failed", importlib.import_module, name)


def _packages(name: str) -> list[str]:
    parts = name.split(".")
    return [".".join(parts[: end + 1]) for end in range(len(parts))]


def _member(module: ModuleType, name: str, source: str) -> Any:
    if hasattr(module, name):
        return getattr(module, name)
    own = [key for key, value in vars(module).items() if _is_own_function(value, module)]
    has = f"; it has {', '.join(own)}" if 0 < len(own) <= 5 else ""
    raise CommandError(f"'{source}' has no function '{name}'{_similar(own, name) or has}")


def _is_own_function(value: Any, module: ModuleType) -> bool:
    return inspect.isfunction(value) and value.__module__ == module.__name__ and not value.__name__.startswith("_")


def _similar(names: list[str], name: str) -> str:
    close = get_close_matches(name, names, n=2, cutoff=0.75)
    return f"; did you mean {' or '.join(close)}?" if close else ""


def is_factory(value: Any) -> bool:
    """Whether it is to be called: a network can be called too, but is none.

    >>> is_factory(dict), is_factory(3)
    (True, False)
    """
    from torch import nn

    return callable(value) and not isinstance(value, nn.Module)


def made(factory: Callable[..., Any], name: str) -> Any:
    """What a factory returns.

    Raises:
        CommandError: it wants arguments, or it fails.

    >>> made(dict, "dict")
    {}
    """
    try:
        needed = [p.name for p in inspect.signature(factory).parameters.values() if _is_required(p)]
    except (TypeError, ValueError):  # a callable written in C
        needed = []
    if needed:
        raise CommandError(
            f"expected the factory '{name}' to be called without arguments, it takes {', '.join(needed)};"
            " give them defaults, or name another function"
        )
    return _called(f"the factory '{name}' failed", factory)


def _is_required(parameter: inspect.Parameter) -> bool:
    return parameter.default is parameter.empty and parameter.kind not in {
        parameter.VAR_POSITIONAL,
        parameter.VAR_KEYWORD,
    }


def _called(what_failed: str, function: Callable[..., Any], *args: Any) -> Any:
    try:
        return function(*args)
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # sys.exit() in a training script, too, must not end us
        raise _failed(what_failed, error) from error


def _failed(what_failed: str, error: BaseException) -> CommandError:
    from headwater.capture import ProblemError

    if isinstance(error, ProblemError):
        return CommandError(str(error))
    return CommandError(missing_device(error) or f"{what_failed}: {described(error)}")


def missing_device(error: BaseException) -> str | None:
    """A sentence for an error that says that a CUDA device is not there; None for any other error.

    >>> missing_device(ValueError("bad shape")) is None
    True
    """
    import torch

    text = f"{error} {error.__cause__ or ''}"
    if "CUDA" not in text and "NVIDIA" not in text:
        return None
    num_devices = torch.cuda.device_count()
    if not num_devices:
        return (
            f"the problem asks for a CUDA device, and torch {torch.__version__} finds none here;"
            " build it on the CPU, for example with device = 'cuda' if torch.cuda.is_available() else 'cpu'"
        )
    if "ordinal" in text:
        return f"the problem asks for a CUDA device that is not there: the last one is cuda:{num_devices - 1}"
    return None


def _checked(value: Any, name: str) -> Problem:
    from torch import nn

    from headwater.capture import Problem

    if isinstance(value, Problem):
        return value
    advice = "return headwater.Problem(model, inputs, targets, loss=...)"
    if value is None:
        advice = f"is there a return statement? {advice}"
    elif isinstance(value, nn.Module):
        advice = "a model alone does not say what to run it on; return headwater.Problem(model, inputs)"
    raise CommandError(f"expected '{name}' to give a headwater.Problem, got {_described(value)}; {advice}")


def _described(value: Any) -> str:
    return "None" if value is None else f"an object of type {type(value).__name__}"
