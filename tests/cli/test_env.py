from __future__ import annotations

import re
from importlib.metadata import version

from headwater.cli import env, main
from headwater.cli.errors import ExitCode


def test_env_lists_versions_devices_and_optional_packages_in_two_columns(capsys):
    assert main(["env"]) == ExitCode.HEALTHY
    rows = dict(re.split(r"  +", line, maxsplit=1) for line in capsys.readouterr().out.splitlines())
    assert rows["torch"] == version("torch")
    assert rows["numpy"] == version("numpy")
    assert int(rows["torch threads"]) > 0
    assert set(rows) >= {"headwater", "python", "platform", "cpus", "accelerators", "matplotlib", "scikit-learn"}


def test_env_tells_how_to_install_what_is_missing(capsys, monkeypatch):
    monkeypatch.setattr(env, "_OPTIONAL", {"no-such-package": "figures"})
    assert main(["env"]) == ExitCode.HEALTHY
    assert "not installed (pip install 'headwater[figures]')" in capsys.readouterr().out


def test_env_names_no_folder(capsys):
    main(["env"])
    assert "/" not in capsys.readouterr().out
