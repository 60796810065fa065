"""The result of `compare`: plain data without torch, and ways to read it."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from headwater.lab import comparison_file
from headwater.lab.compared_variant import ComparedVariant, TrainingBudget
from headwater.lab.comparison_document import comparison_document
from headwater.lab.comparison_html import render_html
from headwater.lab.comparison_tables import layer_table, sample_table
from headwater.lab.comparison_text import render_text
from headwater.lab.data_frame import Table
from headwater.lab.layer_ratios import VariantRatio, variant_ratio
from headwater.lab.learning_curve import LearningCurve
from headwater.lab.variant_measurements import stacked
from headwater.lab.variant_profile import VariantProfile, variant_profile
from headwater.lab.verdict import verdict
from headwater.report import can_show

_NO_MEASUREMENTS = stacked([])


@dataclass(frozen=True, eq=False)
class Comparison:
    """Variants under the same seeds, data and cotangents. `print` it, show it in a notebook, or read its parts.

    Args:
        variants: in the user's order; the first one is the baseline that the others are divided by.
        seeds: row by row.
        cotangent: "loss" or "random".
        training: the budget; None without training.
        versions: of what measured.
    """

    variants: tuple[ComparedVariant, ...]
    seeds: tuple[int, ...]
    cotangent: str
    training: TrainingBudget | None = None
    versions: tuple[tuple[str, str], ...] = ()

    @property
    def baseline(self) -> ComparedVariant:
        """The first variant."""
        return self.variants[0]

    @cached_property
    def verdict(self) -> str:
        """What the seeds are evidence of, in sentences."""
        return verdict(self)

    @cached_property
    def profile(self) -> Mapping[str, VariantProfile]:
        """For each variant's name, medians with intervals and bands for each of its layers."""
        return {variant.name: variant_profile(variant.measured, variant.expected) for variant in self.variants}

    @cached_property
    def ratios(self) -> Mapping[str, VariantRatio]:
        """For the name of each variant but the baseline: its ratios to the baseline, with their factors."""
        return {
            other.name: variant_ratio(other.name, other.measured, self.baseline.name, self.baseline.measured)
            for other in self.variants[1:]
        }

    @property
    def curves(self) -> Mapping[str, LearningCurve]:
        """For each variant's name how its networks learned; empty without training."""
        return {variant.name: variant.curve for variant in self.variants if variant.curve is not None}

    @cached_property
    def table(self) -> Table:
        """One row for each layer of each variant: medians and intervals of its gain, and of its ratios to the baseline."""
        return layer_table(self)

    @cached_property
    def samples(self) -> Table:
        """One row for each variant, seed and layer, with what was measured: for statistics of one's own."""
        return sample_table(self)

    def to_text(self, *, width: int = 80, ascii_only: bool = False) -> str:
        """The report as text.

        Args:
            width: columns; tables may be wider.
            ascii_only: for terminals and files that cannot show Unicode.
        """
        return render_text(comparison_document(self), width=width, ascii_only=ascii_only)

    def to_dict(self) -> dict[str, Any]:
        """The comparison as plain data that strict JSON can hold: what is not finite becomes None."""
        return comparison_file.as_data(self)

    def save(self, path: str | Path) -> None:
        """Saves the comparison as JSON; `Comparison.load` gives it back.

        Raises:
            ComparisonFileError: the file cannot be written.
        """
        comparison_file.write(self, path)

    @classmethod
    def load(cls, path: str | Path) -> Comparison:
        """The comparison that a file holds.

        Raises:
            ComparisonFileError: there is no such file, or it holds no comparison.
        """
        return cls(**comparison_file.read(path))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Comparison) and self._without_arrays == other._without_arrays

    __hash__ = None  # type: ignore[assignment]  # arrays inside: not hashable

    def __str__(self) -> str:
        # A print() must not fail where standard output knows no × and no lines.
        return self.to_text(ascii_only=not can_show(getattr(sys.stdout, "encoding", None))).rstrip("\n")

    def __repr__(self) -> str:
        names = ", ".join(variant.name for variant in self.variants)
        return f"<Comparison of {names} over {len(self.seeds)} seeds>"

    def _repr_html_(self) -> str:
        return render_html(comparison_document(self))

    def __getstate__(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self.__dataclass_fields__}  # not what was computed of it

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)

    @cached_property
    def _without_arrays(self) -> tuple[Any, ...]:
        """Its parts with bytes in place of arrays: a nan is like another one."""
        plain = tuple(replace(variant, measured=_NO_MEASUREMENTS, curve=None) for variant in self.variants)
        return (plain, self.seeds, self.cotangent, self.training, self.versions, comparison_file.array_bytes(self))
