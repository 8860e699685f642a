"""A recording made ready for the compiler of a CPU: the same function, in operations that compile to less work."""

from functools import reduce
from operator import getitem, mul
from typing import Any, cast

import torch
from torch import Tensor
from torch.fx import GraphModule, Node

aten = torch.ops.aten
MOST_FACTORS = 8
"""Numbers in (1, 2] of which one logarithm is taken."""


def for_compiler(recorded: GraphModule, device: torch.device) -> GraphModule:
    """Prepare a recording, in place; on a GPU nothing of this pays."""
    if device.type == "cpu":
        for node in list(recorded.graph.nodes):
            _split_sum(node)
            _take_few_logarithms(node)
            _sum_bias(node)
            _exchange_roles(node)
        recorded.recompile()
    return recorded


def _split_sum(node: Node) -> None:
    """Make of b + x W a product and a sum, which joins what follows it; as one it first fills the result with b."""
    if node.target is not aten.addmm.default or node.kwargs:
        return
    graph, (b, x, w) = node.graph, node.args
    with graph.inserting_before(node):
        product = graph.call_function(aten.mm.default, (x, w))
        both = graph.call_function(aten.add.Tensor, (product, b))
    product.meta = both.meta = node.meta
    node.replace_all_uses_with(both)
    graph.erase_node(node)


def _take_few_logarithms(node: Node) -> None:
    """Make of a sum of Bernoulli log probabilities, entry by entry, one `bernoulli_log_prob`."""
    if node.target is not aten.binary_cross_entropy_with_logits.default:
        return
    logits, x, *options = node.args
    chain = [node]
    for target in (aten.neg.default, aten.reshape.default, aten.sum.dim_IntList):
        following = list(chain[-1].users)
        if len(following) != 1 or following[0].target is not target:
            return
        chain.append(following[0])
    flat, total = chain[2:]
    plain = node.kwargs == {} and all(option in (None, 0) for option in options) and len(options) == 3
    if not plain or total.args[1:] != ([-1],) or total.kwargs:
        return
    graph = node.graph
    with graph.inserting_before(total):
        both = [graph.call_function(aten.reshape.default, (each, flat.args[1])) for each in (logits, x)]
        found = graph.call_function(bernoulli_log_prob, tuple(both))
    found.meta = total.meta
    total.replace_all_uses_with(found)
    for made in reversed(chain):
        graph.erase_node(made)


def _sum_bias(node: Node) -> None:
    """Take the gradient of a bias out of that of its convolution, to be summed with what makes the one it is summed of.

    For an upsampling convolution, a sum of its own takes a quarter of the whole gradient.
    """
    if node.target is not aten.convolution_backward.default:
        return
    graph, (upstream, *between, (of_x, of_weight, of_bias)) = node.graph, cast(Any, node.args)
    if not of_bias:
        return
    with graph.inserting_after(node):
        axes = [axis for axis in range(upstream.meta["val"].ndim) if axis != 1]
        total = graph.call_function(aten.sum.dim_IntList, (upstream, axes))
    _replace_result(node, 2, total)
    node.args = (upstream, *between, [of_x, of_weight, False])


def _exchange_roles(node: Node) -> None:
    """Take the weight's gradient of a convolution of one channel for that of a transposed one, which it equals.

        dW_o(k) = sum_n,i g_no(i) x_n(s i + k - p)

    is symmetric in what a convolution is given and what its gradient is. A compiler cannot tell in which of the two
    layouts a single channel lies, and takes the one in which this gradient takes eight times longer.
    """
    if node.target is not aten.convolution_backward.default:
        return
    upstream, x, weight, _, stride, padding, dilation, transposed, _, groups, mask = cast(Any, node.args)
    of_x, of_weight, of_bias = mask
    shape, kernel, given = (tensor.meta["val"].shape for tensor in (x, weight, upstream))
    if not of_weight or transposed or groups != 1 or shape[1] != 1:
        return
    sizes = zip(shape[2:], given[2:], kernel[2:], stride, padding, dilation, strict=True)
    missing = [n - ((m - 1) * s - 2 * p + d * (k - 1) + 1) for n, m, k, s, p, d in sizes]
    graph = node.graph
    with graph.inserting_after(node):
        arguments = (x, upstream, weight, None, stride, padding, dilation, True, missing, 1, [False, True, False])
        exchanged = graph.call_function(aten.convolution_backward.default, arguments)
    with graph.inserting_after(exchanged):
        found = graph.call_function(getitem, (exchanged, 1))
    _replace_result(node, 1, found)
    node.args = (*node.args[:-1], [of_x, False, of_bias])


def _replace_result(node: Node, index: int, made: Node) -> None:
    """Let `made` stand wherever one of the results of a node is taken."""
    for user in list(node.users):
        if user.target is getitem and user.args[1] == index:
            made.meta = user.meta
            user.replace_all_uses_with(made)
            node.graph.erase_node(user)


def bernoulli_log_prob(logits: Tensor, x: Tensor) -> Tensor:
    """Log p of n independent Bernoulli entries, with few logarithms, which take longest in it.

        sum_i x_i l_i - max(l_i, 0) - log(1 + exp(-|l_i|)),    log a + log b = log ab

    Factors lie in (1, 2], so that a product of eight is exact to their own rounding.

    Args:
        logits: l (..., n).
        x: in [0, 1] (..., n).

    Returns:
        (...), nats.

    >>> bernoulli_log_prob(torch.zeros(4), torch.ones(4))
    tensor(-2.7726)
    """
    num = logits.shape[-1]
    count = max(k for k in range(1, MOST_FACTORS + 1) if num % k == 0)
    product = reduce(mul, (1 + torch.exp(-logits.abs())).split(max(1, num // count), -1))
    return (x * logits - logits.clamp(min=0)).sum(-1) - product.log().sum(-1)
