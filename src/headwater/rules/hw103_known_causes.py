"""The causes of an exactly zero gradient that do not depend on the place, in words."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

from headwater.analysis.zero_deadlocks import Deadlock
from headwater.rules.wording import counted, listed


class Kind(Enum):
    """What a zero gradient means for training."""

    FAULT = "it stays zero"
    HEALS = "it should be gone after one optimiser step"
    HEALED = "it was gone after a step or two that were tried"
    DESIGN = "it is meant"
    DROPPED = "it is meant for this pass, where the gradient has another way"


@dataclass(frozen=True, slots=True)
class Cause:
    """Why the gradient is zero, and what to do about it.

    Args:
        kind: what it means.
        text: as far as one pass tells.
        remedies: the most effective first.
        if_tried: of a cause that steps may end, a clause to which their outcome is added, and the remedies if they end it.
    """

    kind: Kind
    text: str
    remedies: tuple[str, ...]
    if_tried: tuple[str, tuple[str, ...]] | None = None


ONE_UNIT = Cause(
    Kind.FAULT,
    "A softmax over a single unit is 1 whatever its input.",
    (
        "Use a sigmoid (with nn.BCEWithLogitsLoss on the raw output) for one unit, or two units for two classes.",
        "If another dimension holds the classes, name it: nn.Softmax(dim=...).",
    ),
)
ALL_OFF = Cause(
    Kind.FAULT,
    "Every unit of the rectifier is off for every sample: no pre-activation is positive.",
    (
        "Look at the bias and the scale of the layer before it: a large negative bias or too large a step does this.",
        "Use a rectifier with a slope on both sides: nn.LeakyReLU, nn.GELU, nn.SiLU.",
    ),
)
SATURATED = Cause(
    Kind.FAULT,
    "Its input is so large that the derivative is rounded to exactly zero.",
    ("Scale or normalise the input; initialise the layer before it smaller.",),
)
CONFIDENT = Cause(
    Kind.DESIGN,
    "The output is so certain of everything that its derivative is rounded to exactly zero.",
    ("Give the loss and the targets, to see whether they ask for a change.", "Let the loss take the raw output."),
)
ONE_ELEMENT = Cause(
    Kind.FAULT,
    "It normalises over a single element, or a constant: what is left is zero whatever the input.",
    ("Normalise over more than one element: more features per group, more positions, or a larger batch.",),
)
DROPPED = Cause(
    Kind.DROPPED,
    "It was dropped at random in this pass.",
    ("Nothing, if that is meant: other passes train it.",),
)
DROPPED_BLOCK = Cause(
    Kind.DROPPED,
    "It is multiplied by zero in this pass, and other blocks of its list are not: dropped at random (stochastic depth), or masked.",
    ("Nothing, if that is meant: other passes train it.",),
)
SECOND_DERIVATIVE = Cause(
    Kind.DESIGN,
    "The model differentiates itself (a gradient penalty), and what is linear piece by piece has no second derivative; its weights "
    "get a gradient all the same.",
    ("Nothing, if that is meant. A loss of second derivatives needs a smooth activation: tanh, SiLU, sine.",),
)
LOSS_IGNORES = Cause(
    Kind.DESIGN,
    "It is an output of the model, and the loss has no slope there (it is multiplied by zero, or masked).",
    ("Nothing, if that is meant.",),
)
NOT_CHOSEN = Cause(
    Kind.DESIGN,
    "It is masked out: others of its kind that read the same input get a gradient (experts that were not chosen, the query "
    "and key of an attention over one position).",
    ("Nothing, if that is meant. Otherwise look at the gates or weights it is multiplied by.",),
)
ANOTHER_RUN = Cause(
    Kind.DESIGN,
    "What it returned in this run is masked or cut away (an embedding of padding); other runs of it get a gradient.",
    ("Nothing, if that is meant.",),
)
UNKNOWN = Cause(
    Kind.FAULT,
    "The derivative of what is computed there is zero: rounding, a sign, a clamp out of its range, a product with zero.",
    (
        "Look at what it is multiplied by: a mask, a gate or a scale that is zero.",
        "Use a differentiable stand-in for steps: a straight-through estimator instead of round or sign.",
    ),
)


def deadlocked(products: Sequence[Deadlock]) -> Cause:
    """Of parameters that are all zeros and multiply each other, in one place or in several."""
    more = f", and so are those of {counted(len(products) - 1, 'product')} more" if len(products) > 1 else ""
    return Cause(
        Kind.FAULT,
        f"The parameters {listed(products[0].parameters)} are all zeros and are multiplied with each other{more}: each gets its gradient "
        "through the other, so none gets any.",
        ("Initialise all of them but one: nn.init.xavier_normal_(weight). LoRA starts A at random, and B at zero.",),
    )
