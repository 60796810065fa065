"""The notebook's experiment, with Headwater's own names: `python examples/notebook.py`.

Five Linear + GELU layers, with and without shortcuts: the mean absolute gradient of every weight, then what the whole
network looks like from the output back to the input.
"""

import torch
from torch import nn

import headwater as hw
from headwater.networks import DeepNeuralNetwork, print_gradients

LAYER_SIZES = [3, 3, 3, 3, 3, 1]
SAMPLE = torch.tensor([[1.0, 0.0, -1.0]])


def main() -> None:
    for use_shortcut in (False, True):
        torch.manual_seed(123)  # the same weights both times: shortcuts add none
        model = DeepNeuralNetwork(LAYER_SIZES, use_shortcut)
        print("with shortcuts" if use_shortcut else "without shortcuts")
        print_gradients(model, SAMPLE)
        print(hw.diagnose(model, SAMPLE, torch.zeros(1, 1), loss=nn.MSELoss()))


if __name__ == "__main__":
    main()
