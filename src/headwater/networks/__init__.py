"""Networks to look at: the notebook's experiment, and matched families by one specification."""

from headwater.networks.build import build as build
from headwater.networks.critical_point import critical_point as critical_point
from headwater.networks.deep_neural_network import DeepNeuralNetwork as DeepNeuralNetwork
from headwater.networks.families import input_shape as input_shape
from headwater.networks.families import weight_layers as weight_layers
from headwater.networks.initialisation import initial_parameters as initial_parameters
from headwater.networks.initialisation import layer_variances as layer_variances
from headwater.networks.layer_plan import LayerPlan as LayerPlan
from headwater.networks.specification import NetworkSpec as NetworkSpec
from headwater.networks.specification import SpecificationError as SpecificationError
from headwater.networks.weight_gradients import gradient_means as gradient_means
from headwater.networks.weight_gradients import print_gradients as print_gradients
