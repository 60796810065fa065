"""What kind of thing an operation is: why it changes the size of a gradient."""

from __future__ import annotations

from enum import StrEnum


class Cause(StrEnum):
    """Why the gradient changes its size."""

    WEIGHTS = "weight scale"
    ACTIVATION = "activation derivative"
    NORMALISATION = "normalisation"
    ATTENTION = "attention"
    RESHAPING = "pooling and reshaping"
    SHORTCUT = "merges with a shortcut"
    LOSS = "loss"
    OTHER = "other operations"


_WEIGHTS = (
    "linear conv bilinear matmul rmatmul mm bmm addmm addbmm baddbmm mv einsum lstm gru rnn_tanh rnn_relu lstm_cell gru_cell "
    "embedding embedding_bag convolution conv1d conv2d conv3d conv_transpose1d conv_transpose2d conv_transpose3d rnn "
    "quantized_lstm lstmcell grucell rnncell dot vdot inner outer tensordot chain_matmul"
)
_ACTIVATIONS = (
    "sigmoid tanh relu relu6 gelu silu mish softplus softsign elu selu celu leakyrelu leaky_relu prelu rrelu hardtanh "
    "hardsigmoid hardswish hardshrink softshrink tanhshrink logsigmoid threshold glu softmax logsoftmax log_softmax "
    "softmin erf exp expm1 log log1p sin cos pow square sqrt rsqrt reciprocal abs clamp clip quickgelu newgelu swish "
    "newgeluactivation geluactivation siluactivation quickgeluactivation pytorchgelutanh gumbel_softmax atan asin acos sinh"
)
_NORMALISATIONS = (
    "layer_norm batch_norm group_norm instance_norm rms_norm local_response_norm normalize weight_norm norm "
    "native_layer_norm native_batch_norm cosine_similarity"
)
_ATTENTION = "scaled_dot_product_attention multi_head_attention_forward multiheadattention"
_UNCHANGING = (
    "add radd iadd sub clone contiguous view view_as reshape reshape_as flatten unflatten transpose permute movedim swapaxes "
    "squeeze unsqueeze dropout feature_alpha_dropout alpha_dropout identity to type float double half bfloat16 t mt h mh "
    "chunk split unbind dropoutxd alias cuda cpu unsafeview requires_grad_ tocopy type_as"
)
_RESHAPING = (
    f"{_UNCHANGING} mean sum amax max min maximum minimum median avg_pool1d avg_pool2d avg_pool3d max_pool1d max_pool2d max_pool3d "
    "adaptive_avg_pool1d adaptive_avg_pool2d adaptive_avg_pool3d adaptive_max_pool1d adaptive_max_pool2d "
    "adaptive_max_pool3d getitem select narrow slice index index_select gather cat concat stack expand expand_as repeat "
    "repeat_interleave pad interpolate pixel_shuffle pixel_unshuffle unfold fold roll flip where masked_fill tril triu scatter "
    "index_add scatter_add copy"
)
_BY_CAUSE: dict[Cause, frozenset[str]] = {
    Cause.ATTENTION: frozenset(_ATTENTION.split()),
    Cause.WEIGHTS: frozenset(_WEIGHTS.split()),
    Cause.ACTIVATION: frozenset(_ACTIVATIONS.split()),
    Cause.NORMALISATION: frozenset(_NORMALISATIONS.split()),
    Cause.RESHAPING: frozenset(_RESHAPING.split()),
}
_HANDED_ON = frozenset(_UNCHANGING.split())


def cause_of(name: str) -> Cause:
    """The cause that an operation's or a module type's name stands for.

    >>> [str(cause_of(name)) for name in ("torch.sigmoid", "F.linear", "LlamaRMSNorm", "Tensor.__matmul__", "Addmm")]
    ['activation derivative', 'weight scale', 'normalisation', 'weight scale', 'weight scale']
    """
    plain = _plain(name)
    for cause, names in _BY_CAUSE.items():
        if plain in names:
            return cause
    if "norm" in plain:
        return Cause.NORMALISATION
    if "attention" in plain:
        return Cause.ATTENTION
    if "linear" in plain or "conv" in plain:
        return Cause.WEIGHTS
    if "pool" in plain:
        return Cause.RESHAPING
    if plain.endswith(("elu", "activation")):
        return Cause.ACTIVATION
    return Cause.OTHER


def hands_on(name: str) -> bool:
    """Whether an operation passes the gradient on as it is, or nearly: a sum, a view, dropout.

    >>> hands_on("Tensor.add"), hands_on("Tensor.__iadd__"), hands_on("torch.mul")
    (True, True, False)
    """
    return _plain(name) in _HANDED_ON


def is_product(name: str) -> bool:
    """Whether an operation multiplies or divides entry by entry.

    >>> is_product("Tensor.__rmul__"), is_product("torch.div"), is_product("torch.matmul")
    (True, True, False)
    """
    return _plain(name) in ("mul", "multiply", "rmul", "imul", "div", "divide", "truediv", "itruediv")


def _plain(name: str) -> str:
    """The last part of a name in lower case, without underscores around it: "Tensor.__iadd__" is "iadd"."""
    return name.rpartition(".")[2].strip("_").lower()
