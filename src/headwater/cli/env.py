"""`headwater env`: what a bug report needs to say about the machine."""

from __future__ import annotations

import importlib.metadata
import os
import platform

import click

from headwater._version import __version__
from headwater.cli.errors import ExitCode

_OPTIONAL = {"matplotlib": "figures", "scikit-learn": "demo"}
_MISSING = "not installed"


@click.command(short_help="Print versions, devices and threads.")
def env() -> ExitCode:
    """Print versions, devices and threads: put them into a bug report."""
    rows = {**_versions(), **_devices(), **_optional_packages()}
    width = max(map(len, rows))
    for name, value in rows.items():
        click.echo(f"{name:<{width}}  {value}")
    return ExitCode.HEALTHY


def _versions() -> dict[str, str]:
    return {
        "headwater": __version__,
        "torch": _version("torch"),
        "numpy": _version("numpy"),
        "python": f"{platform.python_version()} ({platform.python_implementation()})",
        "platform": f"{platform.system()} {platform.machine()}",
    }


def _devices() -> dict[str, str]:
    import torch

    names = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    if torch.backends.mps.is_available():
        names.append("Apple MPS")
    return {
        "cpus": str(os.cpu_count()),
        "torch threads": str(torch.get_num_threads()),
        "accelerators": ", ".join(names) or "none",
    }


def _optional_packages() -> dict[str, str]:
    versions = {name: _version(name) for name in _OPTIONAL}
    return {
        name: f"{_MISSING} (pip install 'headwater[{_OPTIONAL[name]}]')" if version == _MISSING else version
        for name, version in versions.items()
    }


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return _MISSING
