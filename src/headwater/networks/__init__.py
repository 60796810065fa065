"""Networks to look at: the notebook's experiment."""

from headwater.networks.deep_neural_network import DeepNeuralNetwork as DeepNeuralNetwork
from headwater.networks.specification import NetworkSpec as NetworkSpec
from headwater.networks.specification import SpecificationError as SpecificationError
from headwater.networks.weight_gradients import gradient_means as gradient_means
from headwater.networks.weight_gradients import print_gradients as print_gradients
