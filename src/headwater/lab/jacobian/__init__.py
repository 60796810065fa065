"""The Jacobian of a model between two places, measured without making the matrix."""

from headwater.lab.jacobian.estimate import Estimate as Estimate
from headwater.lab.jacobian.moments import JacobianMoments as JacobianMoments
from headwater.lab.jacobian.moments import jacobian_moments as jacobian_moments
from headwater.lab.jacobian.moments import partial_jacobian_norm as partial_jacobian_norm
from headwater.lab.jacobian.operator import JacobianOperator as JacobianOperator
from headwater.lab.jacobian.operator import jacobian_operator as jacobian_operator
from headwater.lab.jacobian.singular_values import SingularValues as SingularValues
from headwater.lab.jacobian.singular_values import singular_values as singular_values
from headwater.lab.jacobian.spectrum import JacobianSpectrum as JacobianSpectrum
from headwater.lab.jacobian.spectrum import jacobian_spectrum as jacobian_spectrum
from headwater.lab.jacobian.spectrum_figure import SpectrumData as SpectrumData
from headwater.lab.jacobian.spectrum_figure import plot_spectrum as plot_spectrum
from headwater.lab.jacobian.spectrum_figure import spectrum_data as spectrum_data
