"""Analysis of recordings: gains, profiles, ratios. No torch in here."""

from headwater.analysis.depth_profile import DepthProfile as DepthProfile
from headwater.analysis.depth_profile import ProfileRow as ProfileRow
from headwater.analysis.depth_profile import depth_profile as depth_profile
from headwater.analysis.expected_rate import ExpectedRate as ExpectedRate
from headwater.analysis.expected_rate import expected_rate as expected_rate
from headwater.analysis.gain import backward_gain as backward_gain
from headwater.analysis.gain import cotangent as cotangent
from headwater.analysis.gain import forward_gain as forward_gain
from headwater.analysis.gain import gain_from_output_decades as gain_from_output_decades
from headwater.analysis.gradient_noise import GradientNoise as GradientNoise
from headwater.analysis.gradient_noise import gradient_noise as gradient_noise
from headwater.analysis.gradient_noise import total_noise as total_noise
from headwater.analysis.line_costs import LineCost as LineCost
from headwater.analysis.line_costs import line_costs as line_costs
from headwater.analysis.line_costs import lines_of_modules as lines_of_modules
from headwater.analysis.loss_scale import LossScale as LossScale
from headwater.analysis.loss_scale import loss_scale as loss_scale
from headwater.analysis.ratio import RatioFactors as RatioFactors
from headwater.analysis.ratio import ratio_factors as ratio_factors
from headwater.analysis.time_steps import TimeSteps as TimeSteps
from headwater.analysis.time_steps import time_steps as time_steps
from headwater.analysis.waterfall import Waterfall as Waterfall
from headwater.analysis.waterfall import WaterfallPart as WaterfallPart
from headwater.analysis.waterfall import WaterfallStep as WaterfallStep
from headwater.analysis.waterfall import waterfall as waterfall
