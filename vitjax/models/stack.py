"""Repeat a block: traced once for any depth; what the backward pass keeps is chosen by name."""

from collections.abc import Callable

import flax.linen as nn
import jax


def _convolutions(primitive, *_, **__):
    return primitive is jax.lax.conv_general_dilated_p


# What is saved for the backward pass; the rest is computed again.
REMAT = {
    "none": None,  # everything is saved
    "full": jax.checkpoint_policies.nothing_saveable,  # block inputs only
    # Outputs of products with parameters: projections, MLP, convolutions; not attention scores.
    "dots": jax.checkpoint_policies.save_from_both_policies(
        jax.checkpoint_policies.dots_with_no_batch_dims_saveable, _convolutions
    ),
}


def rematerialise(block, remat, in_loop):
    """The block class under the policy named `remat`, a name in REMAT.

    in_loop: whether it will run inside a loop. There the compiler cannot merge the second forward
    pass with the first; elsewhere it would, and nothing be saved, so it is held back.
    """
    if remat == "none":
        return block
    return nn.remat(block, prevent_cse=not in_loop, policy=REMAT[remat])


def block_names(length):
    """What the layers of such a stack are called."""
    return tuple(f"block_{layer:02d}" for layer in range(length))


def repeat(block, x, rates=None, *, length, scan=True, collect=False):
    """Apply `length` copies of `block` in turn, with separate parameters and random keys.

    block: a Linen module, __call__(x) -> x of the same shape; its parameters and statistics get a
    leading layer axis of size `length`. rates: None, or [length] float32: copy i is then called
    as block(x, rates[i]).
    scan=False unrolls the loop when it is compiled: same parameters, same keys, same numbers.
    Returns x, and with collect=True every copy's output [length, ...] (None otherwise).
    """

    def body(block, x, rate):
        x = block(x) if rate is None else block(x, rate)
        return x, (x if collect else None)

    loop = nn.scan(
        body,
        variable_axes={"params": 0, "batch_stats": 0},
        split_rngs={"params": True, "dropout": True},
        length=length,
        # Beyond the length: a loop of one turn is then unrolled too.
        unroll=1 if scan else length + 1,
    )
    return loop(block, x, rates)


class Stage(nn.Module):
    """A first block that may change the shape, then `length` - 1 equal ones in a scan.

    first, rest: make a block from features, stride and name.
    """

    first: Callable[..., nn.Module]
    rest: Callable[..., nn.Module]
    features: int
    stride: int
    length: int
    scan: bool

    @nn.compact
    def __call__(self, x, rates=None):
        """rates: [length] float32, of stochastic depth; None for none."""
        first = self.first(self.features, self.stride, name="first")
        x = first(x) if rates is None else first(x, rates[0])
        if self.length > 1:
            rest = None if rates is None else rates[1:]
            blocks = self.rest(self.features, 1, name="blocks")
            x, _ = repeat(blocks, x, rest, length=self.length - 1, scan=self.scan)
        return x
