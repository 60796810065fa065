"""Closed forms and quadratures: what a network of this kind should do. No torch in here."""

from headwater.theory.activations import ACTIVATIONS as ACTIVATIONS
from headwater.theory.activations import Activation as Activation
from headwater.theory.activations import from_callable as from_callable
from headwater.theory.finite_width import factor_band as factor_band
from headwater.theory.finite_width import kappa as kappa
from headwater.theory.mean_field import Initialisation as Initialisation
from headwater.theory.mean_field import chi as chi
from headwater.theory.mean_field import fixed_point as fixed_point
from headwater.theory.mean_field import gradient_factor as gradient_factor
from headwater.theory.mean_field import pytorch_default as pytorch_default
from headwater.theory.mean_field import variance_map as variance_map
