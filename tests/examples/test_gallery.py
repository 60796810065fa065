"""Every picture of the gallery in its small size: what its title says is true of its numbers, and would not be of others."""

from __future__ import annotations

import importlib
import runpy
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
SCRIPTS, PICTURES = ROOT / "examples" / "gallery", ROOT / "docs" / "gallery"
SHARED = {"exhibit", "drawing"}
MOST_BYTES = 100_000


def _with_growth_of_identity(data: Any, factor: float) -> Any:
    identity = data.found["signal"]["identity"]
    wrong = identity._replace(simulated=tuple(factor * value for value in identity.simulated))
    return data._replace(found={**data.found, "signal": {**data.found["signal"], "identity": wrong}})


def _exchanged(comparison: Any, first: str, second: str, field: str) -> Any:
    """A comparison in which two variants have each other's measurements or learning curves."""
    by_name = {variant.name: getattr(variant, field) for variant in comparison.variants}
    other = {first: second, second: first}
    variants = [
        replace(variant, **{field: by_name[other.get(variant.name, variant.name)]}) for variant in comparison.variants
    ]
    return replace(comparison, variants=tuple(variants))


# What each exhibit's claims must not survive.
FALSIFIED: dict[str, Callable[[Any], Any]] = {
    "batch_norm_explosion": lambda data: data._replace(factor=1.05 * data.factor),
    "depth_limit": lambda data: data._replace(learned_up_to={n: 2.0 * d for n, d in data.learned_up_to.items()}),
    "digits_34_layers": lambda data: _exchanged(data, "Glorot", "Glorot, shortcuts with branches / √L", "curve"),
    "notebook_over_seeds": lambda data: _exchanged(data, "plain", "shortcuts", "measured"),
    "orthogonal_against_gaussian": lambda data: {
        **data,
        "Gaussian, ReLU": data["orthogonal, ReLU"],
        "orthogonal, ReLU": data["Gaussian, ReLU"],
    },
    "pre_against_post_norm": lambda data: data._replace(
        branches={"pre": data.branches["post"], "post": data.branches["pre"]}
    ),
    "residual_growth": lambda data: _with_growth_of_identity(data, 1.5),
    "theory_beside_simulation": lambda data: (data[0]._replace(predicted=(2.0,) * len(data[0].places)), *data[1:]),
    "trainability": lambda data: data._replace(below=data.above, above=data.below),
}


@pytest.fixture
def exhibit_of(monkeypatch) -> Callable[[str], Any]:
    monkeypatch.syspath_prepend(SCRIPTS)
    return lambda name: importlib.import_module(name).EXHIBIT


def test_every_script_has_a_small_picture_and_a_paragraph_and_is_tested_here():
    names = {path.stem for path in SCRIPTS.glob("*.py")} - SHARED
    assert names == set(FALSIFIED) == {path.stem for path in PICTURES.iterdir()}
    page = (ROOT / "docs" / "gallery.md").read_text(encoding="utf-8")
    for name in names:
        assert f"gallery/{name}.png" in page
        assert f"examples/gallery/{name}.py" in page
        assert (PICTURES / f"{name}.png").stat().st_size < MOST_BYTES


@pytest.mark.parametrize("name", sorted(FALSIFIED))
def test_a_picture_says_what_was_measured_and_is_not_drawn_of_anything_else(name, exhibit_of, tmp_path):
    from exhibit import FalseClaimError, write_picture  # pyright: ignore[reportMissingImports]

    exhibit = exhibit_of(name)
    data = exhibit.compute(True)
    assert [claim.sentence for claim in exhibit.claims(data) if not claim.holds] == []
    path = write_picture(exhibit, data, tmp_path)
    assert path == tmp_path / f"{name}.png"
    assert path.read_bytes().startswith(b"\x89PNG")
    assert path.stat().st_size < MOST_BYTES
    path.unlink()
    with pytest.raises(FalseClaimError, match=name):
        write_picture(exhibit, FALSIFIED[name](data), tmp_path)
    assert not path.exists()


def test_a_script_prints_its_claims_and_writes_its_picture_where_it_is_told(monkeypatch, capsys, tmp_path):
    script = SCRIPTS / "notebook_over_seeds.py"
    monkeypatch.syspath_prepend(SCRIPTS)
    monkeypatch.setattr(sys, "argv", [str(script), "--small", "--out", str(tmp_path / "new")])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(script), run_name="__main__")
    assert ended.value.code == 0
    printed = capsys.readouterr().out
    assert printed.startswith("true   With shortcuts the first layer's gain is ")
    assert f"wrote {tmp_path / 'new' / 'notebook_over_seeds.png'}" in printed


def test_a_script_whose_claim_is_false_ends_with_1_and_without_a_picture(exhibit_of, capsys, tmp_path):
    from exhibit import main  # pyright: ignore[reportMissingImports]

    exhibit = exhibit_of("notebook_over_seeds")
    wrong = replace(exhibit, compute=lambda small: FALSIFIED["notebook_over_seeds"](exhibit.compute(small)))
    assert main(wrong, ["--small", "--out", str(tmp_path)]) == 1
    assert "FALSE" in capsys.readouterr().out
    assert list(tmp_path.iterdir()) == []
