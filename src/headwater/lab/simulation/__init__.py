"""Every formula of `headwater.theory` beside random networks, by plain autograd in float64: for figures, and for tests."""

from headwater.lab.simulation.agreement import Agreement as Agreement
from headwater.lab.simulation.agreement_figure import plot_agreement as plot_agreement
from headwater.lab.simulation.batch_norm import batch_norm_explosion as batch_norm_explosion
from headwater.lab.simulation.born_dead import born_dead as born_dead
from headwater.lab.simulation.finite_width import log_variance_of_gain as log_variance_of_gain
from headwater.lab.simulation.finite_width import log_variance_with_shortcuts as log_variance_with_shortcuts
from headwater.lab.simulation.finite_width import second_moment_of_relu as second_moment_of_relu
from headwater.lab.simulation.jacobians import largest_singular_value as largest_singular_value
from headwater.lab.simulation.jacobians import relative_variance as relative_variance
from headwater.lab.simulation.mean_field import chi_of_tanh as chi_of_tanh
from headwater.lab.simulation.mean_field import critical_line_of_tanh as critical_line_of_tanh
from headwater.lab.simulation.recurrent import gain_over_time as gain_over_time
from headwater.lab.simulation.residual import KINDS as KINDS
from headwater.lab.simulation.residual import growth as growth
from headwater.lab.simulation.residual import last_branch_gradient as last_branch_gradient
from headwater.lab.simulation.shattering import shattering as shattering
