"""Products with the Jacobians of many kinds of models, beside the whole matrix in float64; and no trace of it afterwards."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from headwater.capture import ProblemError
from headwater.lab.jacobian import jacobian_moments, jacobian_operator, partial_jacobian_norm, singular_values
from tests.lab.jacobian.dense_oracle import dense_jacobians, whole_jacobian


class Squares(torch.autograd.Function):
    """Has a forward mode, and a backward that cannot be differentiated again."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        ctx.save_for_forward(x)
        return x**2

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, gradient):
        return 2.0 * gradient * ctx.saved_tensors[0]

    @staticmethod
    def jvp(ctx, tangent):
        return 2.0 * ctx.saved_tensors[0] * tangent


class OnlyBackward(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x**2

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, gradient):
        return 2.0 * gradient * ctx.saved_tensors[0]


class ForgetsItsGradient(OnlyBackward):
    """Runs when it is differentiated twice, and is wrong: its backward is a constant to autograd."""

    @staticmethod
    def backward(ctx, gradient):
        return 2.0 * gradient.detach() * ctx.saved_tensors[0] + 0.0 * gradient


class Applied(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function
        self.linear = nn.Linear(4, 4)

    def forward(self, x):
        return self.function.apply(self.linear(x))


class FirstOfTuple(nn.Module):
    def __init__(self, module):
        super().__init__()
        self.module = module

    def forward(self, x):
        return self.module(x)[0]


def convolutions():
    return nn.Sequential(nn.Conv2d(2, 3, 3, padding=1), nn.SiLU(), nn.AvgPool2d(2), nn.Flatten(), nn.Linear(12, 5))


MODELS = {
    "mlp": (lambda: nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 3)), (3, 5)),
    "in-place": (lambda: nn.Sequential(nn.ReLU(inplace=True), nn.Linear(5, 5), nn.ReLU(inplace=True)), (3, 5)),
    "convolutions": (convolutions, (3, 2, 4, 4)),
    "attention": (lambda: nn.TransformerEncoderLayer(4, 2, 8, dropout=0.0, batch_first=True), (2, 3, 4)),
    "lstm": (lambda: FirstOfTuple(nn.LSTM(3, 4, batch_first=True)), (2, 5, 3)),
    "gru": (lambda: FirstOfTuple(nn.GRU(3, 4, batch_first=True)), (2, 5, 3)),
    "norm": (lambda: nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4), nn.GELU()), (3, 4)),
    "batch norm in evaluation": (lambda: nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4)).eval(), (3, 4)),
    "forward mode only": (lambda: Applied(Squares), (3, 4)),
}


@pytest.mark.parametrize("name", list(MODELS))
def test_products_are_those_of_the_matrix(name):
    torch.manual_seed(0)
    make, shape = MODELS[name]
    model, inputs = make().double(), torch.randn(shape, dtype=torch.float64)
    matrices = dense_jacobians(model, inputs)
    generator = np.random.default_rng(0)
    with jacobian_operator(model, inputs) as jacobian:
        assert (jacobian.num_samples, jacobian.num_outputs, jacobian.num_inputs) == matrices.shape
        v = generator.normal(size=(len(inputs), jacobian.num_inputs))
        u = generator.normal(size=(len(inputs), jacobian.num_outputs))
        np.testing.assert_allclose(jacobian.times(v), np.einsum("soi,si->so", matrices, v), rtol=1e-10, atol=1e-12)
        np.testing.assert_allclose(
            jacobian.transposed_times(u), np.einsum("soi,so->si", matrices, u), rtol=1e-10, atol=1e-12
        )


@pytest.mark.parametrize("function", [OnlyBackward, ForgetsItsGradient])
def test_a_model_without_second_derivative_and_forward_mode_is_refused_in_a_sentence(function):
    model = Applied(function)
    with pytest.raises(ProblemError, match=r"differentiated twice .* or in forward mode .* needs neither"):
        jacobian_moments(model, torch.randn(2, 4))
    assert partial_jacobian_norm(model, torch.randn(2, 4)).value.shape == (2,)


def test_batch_statistics_are_refused_and_measured_as_a_whole():
    torch.manual_seed(0)
    model, inputs = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3)).double(), torch.randn(4, 3).double()
    with pytest.raises(ProblemError, match=r"influence one another .* pass whole=True"):
        jacobian_moments(model, inputs)
    found = jacobian_moments(model, inputs, whole=True, probes=12)
    matrix = whole_jacobian(copy.deepcopy(model), inputs)
    assert found.is_exact
    assert found.sum_of_squares.value == pytest.approx([np.sum(matrix**2)])


def test_time_in_the_first_dimension_is_no_batch():
    with pytest.raises(ProblemError, match="first dimension is no batch"):
        jacobian_moments(FirstOfTuple(nn.RNN(2, 2)), torch.randn(5, 1, 2))


def test_a_pooled_batch_is_one_jacobian_only():
    class Pooled(nn.Module):
        def forward(self, x):
            return x.mean(0)

    with pytest.raises(ProblemError, match=r"a value for each of 3 samples, got shape \(4,\)"):
        jacobian_moments(Pooled(), torch.randn(3, 4))
    assert singular_values(Pooled(), torch.randn(3, 4), whole=True, k=1).values == pytest.approx(3**-0.5, abs=1e-5)


def test_dropout_is_one_mask_for_all_products():
    model, inputs = nn.Sequential(nn.Linear(30, 30), nn.Dropout(0.5), nn.Linear(30, 30)).double(), torch.randn(1, 30)
    found = jacobian_moments(model, inputs.double(), probes=30, seed=3)
    values = singular_values(model, inputs.double(), k=30, seed=3).values
    assert found.sum_of_squares.value == pytest.approx((values**2).sum(1), rel=1e-9)
    other = jacobian_moments(model, inputs.double(), probes=30, seed=4)
    assert other.sum_of_squares.value != pytest.approx(found.sum_of_squares.value, rel=1e-3)


def test_a_gradient_that_float32_has_no_number_for_is_measured():
    torch.manual_seed(0)
    deep = nn.Sequential(*[layer for _ in range(120) for layer in (nn.Linear(16, 16), nn.GELU())])
    inputs = torch.randn(2, 16)
    found = singular_values(deep, inputs, k=2)
    exact = np.linalg.svd(dense_jacobians(copy.deepcopy(deep).double(), inputs.double()), compute_uv=False)
    assert exact[0, 0] < 1e-50
    np.testing.assert_allclose(found.values, exact[:, :2], rtol=1e-3)
    assert jacobian_moments(deep, inputs, probes=16).sum_of_squares.value == pytest.approx((exact**2).sum(1), rel=1e-3)


def test_an_exploding_network_is_measured():
    deep = nn.Sequential(*[nn.Linear(4, 4, bias=False) for _ in range(60)])
    with torch.no_grad():
        for layer in deep:
            layer.weight.copy_(10.0 * torch.eye(4))
    assert np.log10(singular_values(deep, torch.full((1, 4), 1e-30), k=1).values) == pytest.approx(60.0, abs=1e-3)


def test_a_jacobian_of_zeros_and_one_of_nan():
    dead = nn.Sequential(nn.Linear(3, 3), nn.ReLU())
    with torch.no_grad():
        dead[0].bias.fill_(-100.0)
    found = jacobian_moments(dead, torch.zeros(2, 3))
    assert found.sum_of_squares.value.tolist() == [0.0, 0.0]
    assert np.isnan(found.relative_variance.value).all()
    assert singular_values(dead, torch.zeros(2, 3), k=2).values.tolist() == [[0.0, 0.0], [0.0, 0.0]]

    class Root(nn.Module):
        def forward(self, x):
            return x.sqrt() * 0.0

    with pytest.raises(ProblemError, match="holds NaN or Inf"):
        jacobian_moments(Root(), torch.zeros(1, 3))


def test_from_layer_to_layer():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 2)).double()
    inputs = torch.randn(2, 3).double()
    hidden = model[1](model[0](inputs)).detach()
    expected = dense_jacobians(lambda h: model[3](model[2](h)), hidden)
    found = jacobian_moments(model, inputs, layer="1", output="3", probes=99)
    assert found.sum_of_squares.value == pytest.approx((expected**2).sum((1, 2)))
    to_part = jacobian_moments(model, inputs, layer="1", output=lambda out: out[:, :1], probes=99)
    expected = dense_jacobians(lambda h: model[2:](h)[:, :1], hidden)
    assert to_part.sum_of_squares.value == pytest.approx((expected**2).sum((1, 2)))


def test_one_call_of_a_module_that_is_reused():
    class Loop(nn.Module):
        def __init__(self):
            super().__init__()
            self.cell = nn.Linear(3, 3, bias=False)

        def forward(self, x):
            for _ in range(4):
                x = self.cell(x)
            return x

    model = Loop().double()
    weight = model.cell.weight.detach().numpy()
    for first, last, power in (((("cell", 1)), None, 2), ("cell", ("cell", 3), 3)):
        found = singular_values(model, torch.ones(1, 3).double(), k=3, layer=first, output=last)
        exact = np.linalg.svd(np.linalg.matrix_power(weight, power), compute_uv=False)
        np.testing.assert_allclose(found.values[0], exact, rtol=1e-8, atol=1e-12)
    with pytest.raises(ProblemError, match=r"'cell' ran 4 times, and call 7"):
        singular_values(model, torch.ones(1, 3).double(), layer=("cell", 7))


def test_token_ids_need_a_layer():
    model = nn.Sequential(nn.Embedding(10, 4), nn.Flatten(), nn.Linear(12, 2))
    tokens = torch.tensor([[1, 2, 3], [4, 5, 6]])
    with pytest.raises(ProblemError, match=r"one floating-point tensor among the inputs .* layer="):
        jacobian_moments(model, tokens)
    assert jacobian_moments(model, tokens, layer="0").num_inputs == 12


def test_a_hugging_face_model_from_its_embeddings():
    transformers = pytest.importorskip("transformers")
    config = transformers.GPT2Config(
        n_layer=2, n_head=2, n_embd=8, vocab_size=20, n_positions=8, bos_token_id=0, eos_token_id=0
    )
    model = transformers.GPT2LMHeadModel(config).eval()
    found = jacobian_moments(model, {"input_ids": torch.arange(6)[None]}, layer="transformer.drop")
    assert (found.num_inputs, found.num_outputs) == (48, 120)
    assert found.sum_of_squares.value[0] > 0.0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (dict(layer="nowhere"), "no module 'nowhere'; it has 0, 1, 2"),
        (dict(layer="1", output="0"), "does not depend on the output of '1'"),
        (dict(layer="1", output="1"), "does not depend|expected"),
    ],
)
def test_places_that_do_not_go_together(arguments, message):
    model = nn.Sequential(nn.Linear(3, 3), nn.Tanh(), nn.Linear(3, 3))
    if arguments == dict(layer="1", output="1"):
        # The variable itself: its Jacobian is the identity.
        assert singular_values(model, torch.ones(1, 3), k=1, **arguments).values == pytest.approx(1.0, abs=1e-5)
    else:
        with pytest.raises(ProblemError, match=message):
            jacobian_moments(model, torch.ones(1, 3), **arguments)


def test_an_output_without_gradient_is_refused():
    class Detached(nn.Module):
        def forward(self, x):
            return x.detach() * 2.0

    with pytest.raises(ProblemError, match=r"does not depend on the model's input .* detach"):
        jacobian_moments(Detached(), torch.ones(1, 3))
    with pytest.raises(ProblemError, match=r"expected the model to be a torch\.nn\.Module"):
        jacobian_moments(torch.tanh, torch.ones(1, 3))


def test_a_reentrant_checkpoint_is_refused_in_a_sentence():
    class Checkpointed(nn.Module):
        def __init__(self, *, use_reentrant):
            super().__init__()
            self.linear, self.use_reentrant = nn.Linear(3, 3), use_reentrant

        def forward(self, x):
            return checkpoint(lambda y: self.linear(y).tanh(), x, use_reentrant=self.use_reentrant)

    inputs = torch.randn(2, 3)
    with pytest.raises(
        ProblemError, match="the backward pass to the layer failed: RuntimeError: When use_reentrant=True"
    ):
        jacobian_moments(Checkpointed(use_reentrant=True), inputs)
    assert jacobian_moments(Checkpointed(use_reentrant=False), inputs).is_exact


def test_sixteen_bits():
    model, inputs = nn.Sequential(nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 8)), torch.randn(2, 8)
    exact = np.linalg.svd(dense_jacobians(model.double(), inputs.double()), compute_uv=False)[:, :2]
    for dtype in (torch.bfloat16, torch.float16):
        found = singular_values(copy.deepcopy(model).to(dtype), inputs.to(dtype), k=2)
        np.testing.assert_allclose(found.values, exact, rtol=0.05)
