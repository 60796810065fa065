from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given

from headwater.recording import Combine, Series, SignalKind, TensorStats, Update, extended
from tests.recording.samples import sample
from tests.recording.strategies import recordings

SERIES = Series("decades_per_step", "relu", 1, "0", Combine.MAXIMUM, np.array([-0.3, np.nan]))


@given(recordings())
def test_extending_by_nothing_changes_nothing(recording):
    assert extended(recording) == recording


def test_what_is_added_stands_behind_what_was_there():
    recording = sample()
    step = TensorStats.from_values([0.0, 1e-3])
    longer = extended(recording, series=[SERIES], updates=[Update("relu.weight", step)])
    assert list(longer)[:-1] == list(recording)
    added = list(longer)[-1]
    assert (added.kind, added.parameter, added.stats, added.depth) == (SignalKind.UPDATE, "relu.weight", step, 1)
    assert added.tensor not in {signal.tensor for signal in recording}
    assert len(longer.all_series) == len(recording.all_series) + 1
    (found,) = longer.series("decades_per_step", depth=1)
    assert (found.module, found.item, found.combine) == ("relu", "0", Combine.MAXIMUM)
    np.testing.assert_array_equal(found.values, SERIES.values)


def test_the_recording_that_was_given_stays_as_it_is():
    recording = sample()
    extended(recording, series=[SERIES])
    assert recording == sample()


def test_series_of_an_unknown_module_are_refused():
    with pytest.raises(KeyError, match="nowhere"):
        extended(sample(), series=[Series("x", "nowhere", -1, "", Combine.SUM, np.zeros(1))])
    with pytest.raises(KeyError, match="nowhere"):
        extended(sample(), updates=[Update("nowhere.weight", TensorStats(0))])
