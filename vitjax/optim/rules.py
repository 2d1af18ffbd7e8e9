"""What a parameter's name says about its update: rules, and its layer.

A rule is (regular expression, value). It is searched for in the "/"-joined path of a parameter,
such as "encoder/blocks/attention/query/kernel"; the first match wins.
"""

import re

import jax
import numpy as np

# Blocks of a scan are stacked along a leading layer axis under this name.
STACKED = re.compile(r"(^|/)blocks/")
# Inside an encoder: what comes after the last block learns at the rate of the head.
_AFTER_BLOCKS = re.compile(r"^(norm|prefix_norm|local_prefix_norm|attention_pool)/")
_NUMBER = re.compile(r"(?:^|/)(?:block|stage)_(\d+)(?=/)")


def name_of(path):
    """jax's key path of a plain nested dict -> "encoder/norm/scale"."""
    return jax.tree_util.keystr(path, simple=True, separator="/")


def names(params):
    """The names of all parameters, in tree order."""
    return [name_of(path) for path, _ in jax.tree_util.tree_leaves_with_path(params)]


def map_named(function, tree, *rest):
    """function(name, leaf, ...) on every parameter of trees of the same structure."""
    return jax.tree_util.tree_map_with_path(
        lambda path, *leaves: function(name_of(path), *leaves), tree, *rest
    )


def compiled(rules, key):
    """((compiled pattern, number), ...) of the rules at the config key optimizer.`key`."""
    try:
        return tuple((re.compile(pattern), float(value)) for pattern, value in rules)
    except (re.error, TypeError, ValueError) as error:
        raise ValueError(
            f"optimizer.{key} is {rules!r} ({error}); expected (regular expression, number) pairs"
        ) from error


def first_match(rules, name, default):
    """The value of the first rule that matches, else `default`."""
    return next((value for pattern, value in rules if pattern.search(name)), default)


def check_all_match(patterns, names, key):
    """Raises ValueError for a pattern that matches no parameter: it is a misspelling."""
    for pattern in patterns:
        if not any(pattern.search(name) for name in names):
            raise ValueError(
                f"optimizer.{key} has the rule {pattern.pattern!r}, which matches no parameter; "
                f"parameters are {', '.join(sorted(names)[:3])}, ..."
            )


def _blocks_of(name, shape):
    """The blocks a parameter belongs to, as sortable tuples of numbers; () outside the blocks."""
    if not name.startswith("encoder/") or name.startswith("encoder/stem/"):  # a hybrid's ResNet
        return ()
    numbers = tuple(int(number) for number in _NUMBER.findall(name))
    if STACKED.search(name):
        return tuple((*numbers, layer) for layer in range(shape[0]))
    if numbers and "/first/" in name:  # the block of a stage before its stack
        return ((*numbers, -1),)
    return (numbers,) if numbers else ()


def layer_rates(params, decay):
    """A tree of factors decay^(L + 1 - layer), as in BEiT (arXiv:2106.08254, its code).

    Layer 0 is what feeds the first block of "encoder/" (embedding, positions, tokens, stem), 1 .. L
    are its blocks, L + 1 is all that follows them, in the encoder and outside. Where parameters are
    stacked under "blocks" the factor is float32 [L, 1, ...]. Names such as "block_03" and "stage_2"
    count by their numbers; where a stage holds blocks, each block is a layer (ConvNeXt's code joins
    them to 12 groups). Raises ValueError where the encoder has no block by number or stack.
    """
    shapes = {
        name: leaf.shape for name, leaf in zip(names(params), jax.tree.leaves(params), strict=True)
    }
    found = sorted({block for name in shapes for block in _blocks_of(name, shapes[name])})
    # What is named for a stage alone goes with the first block of that stage.
    blocks = [b for b in found if not any(o != b and o[: len(b)] == b for o in found)]
    if not blocks:
        raise ValueError(
            f"optimizer.layer_decay is {decay}, but no parameter is named encoder/blocks/..., "
            "encoder/block_00/... or encoder/stage_1/...; set optimizer.layer_decay to None"
        )
    last = len(blocks) + 1

    def rate(name, leaf):
        own = _blocks_of(name, leaf.shape)
        if not own:
            after = not name.startswith("encoder/") or _AFTER_BLOCKS.search(name[len("encoder/") :])
            return 1.0 if after else decay**last
        layers = [1 + next(i for i, b in enumerate(blocks) if b[: len(o)] == o) for o in own]
        rates = [decay ** (last - layer) for layer in layers]
        if STACKED.search(name):
            return np.asarray(rates, np.float32).reshape(-1, *(1,) * (len(leaf.shape) - 1))
        return rates[0]

    return map_named(rate, params)
