"""The rules, one file per code. A new rule is a new file and one line here."""

from __future__ import annotations

from headwater.findings import Rule
from headwater.rules.hw101_vanishing_gradient import VanishingGradient as VanishingGradient
from headwater.rules.hw102_exploding_gradient import ExplodingGradient as ExplodingGradient
from headwater.rules.hw103_zero_gradient import ZeroGradient as ZeroGradient
from headwater.rules.hw104_non_finite import NonFinite as NonFinite
from headwater.rules.hw105_shattered_gradient import ShatteredGradient as ShatteredGradient
from headwater.rules.hw106_noisy_gradient import NoisyGradient as NoisyGradient
from headwater.rules.hw201_dead_units import DeadUnits as DeadUnits
from headwater.rules.hw202_saturated_activation import SaturatedActivation as SaturatedActivation
from headwater.rules.hw203_signal_scale import SignalScale as SignalScale
from headwater.rules.hw204_rank_collapse import RankCollapse as RankCollapse
from headwater.rules.hw301_stalled_update import StalledUpdate as StalledUpdate
from headwater.rules.hw302_underflow import Underflow as Underflow
from headwater.rules.hw303_oversized_update import OversizedUpdate as OversizedUpdate
from headwater.rules.hw401_unreached_parameter import UnreachedParameter as UnreachedParameter
from headwater.rules.hw402_untrained_parameter import UntrainedParameter as UntrainedParameter
from headwater.rules.hw403_symmetric_units import SymmetricUnits as SymmetricUnits

ALL_RULES: tuple[Rule, ...] = (
    VanishingGradient(),
    ExplodingGradient(),
    ZeroGradient(),
    NonFinite(),
    ShatteredGradient(),
    NoisyGradient(),
    DeadUnits(),
    SaturatedActivation(),
    SignalScale(),
    RankCollapse(),
    StalledUpdate(),
    Underflow(),
    OversizedUpdate(),
    UnreachedParameter(),
    UntrainedParameter(),
    SymmetricUnits(),
)
