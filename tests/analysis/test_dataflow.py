from __future__ import annotations

from headwater.analysis.dataflow import dataflow
from headwater.recording import RecordingBuilder
from tests.rules.recordings import Step, activation, chain


def test_a_chain_hands_each_tensor_to_the_next_call():
    flow = dataflow(chain([Step(), activation("Tanh"), Step()]))
    handed_on = [flow.outputs[depth] == flow.inputs[depth + 1] for depth in (1, 2)]
    assert handed_on == [True, True]
    assert flow.readers[flow.outputs[1][0]] == [2]
    assert flow.producers[flow.outputs[3][0]] == [0, 3]  # the model returns what its last layer does


def test_only_what_another_call_reads_counts_as_read():
    flow = dataflow(chain([Step(), Step()]))
    assert [flow.is_read(depth) for depth in (1, 2)] == [True, False]
    assert flow.first_reader(12_345) == -1


def test_siblings_follow_one_another_and_not_the_calls_between_them():
    builder = RecordingBuilder()
    root, outer, inner, last = (builder.add_module(name, "Module") for name in ("", "a", "a.b", "c"))
    top = builder.add_call(root)
    first = builder.add_call(outer, parent=top)
    builder.add_call(inner, parent=first)
    builder.add_call(last, parent=top)
    assert dataflow(builder.build()).next_siblings == [-1, 3, -1, -1]
