"""Networks to look at: the notebook's experiment, and matched families by one specification."""

from headwater.networks.build import build as build
from headwater.networks.deep_neural_network import DeepNeuralNetwork as DeepNeuralNetwork
from headwater.networks.initialisation import initial_parameters as initial_parameters
from headwater.networks.specification import NetworkSpec as NetworkSpec
from headwater.networks.specification import SpecificationError as SpecificationError
from headwater.networks.weight_gradients import gradient_means as gradient_means
from headwater.networks.weight_gradients import print_gradients as print_gradients
