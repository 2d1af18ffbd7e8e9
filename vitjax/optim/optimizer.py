"""Optimizers by name, with rules by parameter name.

One update of a parameter p from its gradient g at step t:

    g = clip(g, global norm)                        clip_norm
    u = moments(g)                                  the optimizer
    u = u + weight_decay * factor(p) * p            decay rules
    p = p - lr(t) * multiplier(p) * u               lr_multipliers, layer_decay

Decay is decoupled as in torch's and optax's AdamW: a step removes lr(t) * weight_decay of p.
big_vision removes schedule(t) * wd, with schedule = lr(t) / lr: ours at weight_decay = wd / lr
(its 1e-4 at lr 1e-3 is 0.1 here). Only sgd is coupled (classic L2): decay comes before momentum.
lr(t) is that of the t-th update, from 0, so a warm-up leaves the first update at zero.
"""

import re

import jax
import jax.numpy as jnp
import optax

from vitjax.lookup import lookup
from vitjax.optim import schedules
from vitjax.optim.rules import (
    STACKED,
    check_all_match,
    compiled,
    first_match,
    layer_rates,
    map_named,
    names,
)

# Kernels decay; biases, norm scales, positions, tokens and probes do not.
DECAY = ((r"(^|/)kernel$", 1.0),)


def adamw(decay, *, b1=0.9, b2=0.999, eps=1e-8, nesterov=False, mu_dtype=None):
    """Adam (arXiv:1412.6980) with decoupled decay (arXiv:1711.05101)."""
    adam = optax.scale_by_adam(b1, b2, eps, mu_dtype=mu_dtype, nesterov=nesterov)
    return optax.chain(adam, decay)


def lamb(decay, *, b1=0.9, b2=0.999, eps=1e-6, adapt=r".*", mu_dtype=None):
    """LAMB (arXiv:1904.00962, algorithm 2): Adam and decay, scaled to the norm of the parameter.

    adapt: regular expression of the parameters whose step is scaled; the others get AdamW's.
    DeiT III's code scales only what decays: r"kernel$". Each layer of a stack has its own norm.
    """
    adam = optax.scale_by_adam(b1, b2, eps, mu_dtype=mu_dtype)
    return optax.chain(adam, decay, _scale_by_trust_ratio(re.compile(adapt)))


def lion(decay, *, b1=0.9, b2=0.99, mu_dtype=None):
    """Lion (arXiv:2302.06675, algorithm 2): the sign of an interpolated momentum."""
    return optax.chain(optax.scale_by_lion(b1, b2, mu_dtype=mu_dtype), decay)


def sgd(decay, *, momentum=0.9, nesterov=False, mu_dtype=None):
    """Momentum SGD with coupled L2, torch's and the classic ResNet recipe (arXiv:1512.03385)."""
    return optax.chain(decay, optax.trace(momentum, nesterov, accumulator_dtype=mu_dtype))


def adafactor(
    decay,
    *,
    decay_rate=0.8,
    min_dim_size_to_factor=128,
    clipping_threshold=1.0,
    multiply_by_parameter_scale=True,
    momentum=None,
    eps=1e-30,
    mu_dtype=None,
):
    """Adafactor (arXiv:1804.04235, algorithm 4) in optax's order, except that lr comes last:
    momentum averages updates before the rate, and decay is multiplied by the rate as everywhere
    here. Each layer of a stack has its own root mean squares for clipping and parameter scale."""
    steps = [
        optax.scale_by_factored_rms(
            decay_rate=decay_rate, min_dim_size_to_factor=min_dim_size_to_factor, epsilon=eps
        )
    ]
    if clipping_threshold is not None:
        steps.append(_clip_by_layer_rms(clipping_threshold))
    if multiply_by_parameter_scale:
        steps.append(_scale_by_layer_rms())
    if momentum is not None:
        steps.append(optax.ema(momentum, debias=False, accumulator_dtype=mu_dtype))
    return optax.chain(*steps, decay)


def muon(
    decay,
    *,
    matrices=r"(^|/)(blocks|block_\d+|stage_\d+)/.*kernel$",
    beta=0.95,
    nesterov=True,
    ns_steps=5,
    rms=0.2,
    b1=0.9,
    b2=0.999,
    eps=1e-8,
    mu_dtype=None,
):
    """Muon for the kernels inside blocks, Adam (b1, b2, eps) for everything else.

    A momentum (beta) is orthogonalised and scaled to a root mean square of `rms`, Adam's, so that
    both share one lr and one decay (arXiv:2502.16982, sec. 2.2). matrices: regular expression of
    Muon's parameters. Each layer of a stack is a matrix of its own; query, key and value are
    [D, H * Dh], everything else is [all but the last dim, last dim]. Depthwise kernels go to Adam.
    """
    matrices = re.compile(matrices)

    def label(name, leaf):
        first = 1 if STACKED.search(name) else 0
        dims = len(leaf.shape) - first
        matrix = dims >= 2 and not (dims == 4 and leaf.shape[-2] == 1)
        return "muon" if matrix and matrices.search(name) else "adam"

    def scale(name, u):
        fan_in, fan_out = (_size(u, dims) for dims in _matrix_dims(name, u))
        return u * (rms * max(fan_in, fan_out) ** 0.5)

    orthogonal = optax.contrib.scale_by_muon(
        ns_steps=ns_steps,
        beta=beta,
        nesterov=nesterov,
        mu_dtype=mu_dtype,
        weight_dimension_numbers=lambda tree: map_named(
            lambda name, u: optax.contrib.MuonDimensionNumbers(*_matrix_dims(name, u)), tree
        ),
    )
    scaled = optax.stateless(lambda updates, params: map_named(scale, updates))
    parts = {
        "muon": optax.chain(orthogonal, scaled),
        "adam": optax.scale_by_adam(b1, b2, eps, mu_dtype=mu_dtype),
    }
    return optax.chain(optax.partition(parts, lambda tree: map_named(label, tree)), decay)


OPTIMIZERS = {
    "adamw": adamw,
    "lamb": lamb,
    "lion": lion,
    "sgd": sgd,
    "adafactor": adafactor,
    "muon": muon,
}


def create(
    name,
    *,
    lr,
    steps,
    schedule=None,
    weight_decay=0.0,
    weight_decay_final=None,
    decay=None,
    lr_multipliers=(),
    layer_decay=None,
    freeze=(),
    late=(),
    clip_norm=None,
    clip_each=False,
    **settings,
):
    """(optax transformation, schedule step -> rate) for parameters in a plain nested dict.

    name: in OPTIMIZERS; settings: the keyword arguments of that function. lr: the peak rate. steps:
    updates in the run. schedule: {"name": in SCHEDULES, "warmup_steps": ..., ...}, cosine
    when None. weight_decay_final: where decay goes from weight_decay, half a cosine over the run;
    None leaves it. decay: rules whose value multiplies weight_decay, 0 where none matches (DECAY
    when None). lr_multipliers: rules, 1 where none matches. layer_decay: see `rules.layer_rates`.
    freeze: regular expressions; those parameters get updates of exactly zero and have no moments,
    nor a part in the norm. late: rules whose value is a number of updates; so long the rate of
    those parameters is 0, while their moments go on (DINOv2's last layer). clip_norm: of the
    global gradient norm; None clips nothing. clip_each: that of each part alone, as the encoder and
    each head.

    update needs params. Paths of the state end with those of the parameters. Raises ValueError
    for bad values here, and in init for a rule that matches no parameter.
    """
    make = lookup(OPTIMIZERS, name, "optimizer.name")
    _check(weight_decay, weight_decay_final, layer_decay, clip_norm)
    rate = schedules.create(**{"name": "cosine", **(schedule or {})}, lr=lr, steps=steps)
    decay_rules = compiled(DECAY if decay is None else decay, "decay")
    multipliers = compiled(lr_multipliers, "lr_multipliers")
    delays = compiled(late, "late")
    frozen = [pattern for pattern, _ in compiled([(f, 0) for f in freeze], "freeze")]

    def is_frozen(name, _):
        return any(pattern.search(name) for pattern in frozen)

    wd = weight_decay
    if weight_decay_final is not None:
        wd = schedules.between(weight_decay, weight_decay_final, steps)
    moments = make(_add_decay(wd, decay_rules), **settings)
    if clip_norm is not None:
        clip = _clip_each if clip_each else optax.clip_by_global_norm
        moments = optax.chain(clip(clip_norm), moments)
    inner = optax.chain(
        optax.masked(moments, lambda tree: map_named(lambda *leaf: not is_frozen(*leaf), tree)),
        _scale_by_name(multipliers, layer_decay),
        *([_delay(delays)] if delays else []),
        optax.scale_by_learning_rate(rate),
        optax.masked(optax.set_to_zero(), lambda tree: map_named(is_frozen, tree)),
    )

    def init(params):
        known = names(params)
        rules = {"lr_multipliers": [pattern for pattern, _ in multipliers], "freeze": frozen}
        rules["late"] = [pattern for pattern, _ in delays]
        if weight_decay or decay is not None:
            rules["decay"] = [pattern for pattern, _ in decay_rules]
        for key, patterns in rules.items():
            check_all_match(patterns, known, key)
        if all(is_frozen(name, None) for name in known):
            raise ValueError(f"optimizer.freeze is {freeze!r}, which freezes every parameter")
        if layer_decay is not None:
            layer_rates(params, layer_decay)
        return inner.init(params)

    def update(grads, state, params):
        # optax mixes bfloat16 moments with float32 gradients and relies on jax's promotion.
        with jax.numpy_dtype_promotion("standard"):
            return inner.update(grads, state, params)

    return optax.GradientTransformation(init, update), rate


def _check(weight_decay, weight_decay_final, layer_decay, clip_norm):
    decays = {"weight_decay": weight_decay, "weight_decay_final": weight_decay_final}
    for key, value in decays.items():
        if value is not None and not value >= 0:
            raise ValueError(f"optimizer.{key} is {value}; expected a number >= 0")
    if layer_decay is not None and not 0 < layer_decay <= 1:
        raise ValueError(f"optimizer.layer_decay is {layer_decay}; expected None or 0 < it <= 1")
    if clip_norm is not None and not clip_norm > 0:
        raise ValueError(f"optimizer.clip_norm is {clip_norm}; expected None or a number > 0")


def _add_decay(weight_decay, rules):
    """weight_decay: a number, or a function of the number of updates done."""

    def added(updates, params, amount):
        def add(name, u, p):
            factor = first_match(rules, name, 0.0)
            return u + amount * factor * p if factor else u

        return map_named(add, updates, params)

    if not callable(weight_decay):
        rules = rules if weight_decay else ()
        return optax.stateless(lambda updates, params: added(updates, params, weight_decay))
    return _counted(lambda updates, params, count: added(updates, params, weight_decay(count)))


def _delay(rules):
    """No updates of the parameters that a rule names before its number of them is done."""

    def delayed(updates, params, count):
        def scale(name, u):
            steps = first_match(rules, name, 0.0)
            return jnp.where(count >= steps, u, jnp.zeros_like(u)) if steps else u

        return map_named(scale, updates)

    return _counted(delayed)


def _counted(function):
    """A transformation by function(updates, params, updates done)."""

    def update(updates, state, params):
        return function(updates, params, state.count), optax.ScaleByScheduleState(state.count + 1)

    def init(params):
        return optax.ScaleByScheduleState(jnp.zeros((), jnp.int32))

    return optax.GradientTransformation(init, update)


def _clip_each(norm):
    """Each part of the parameters (the first name in a path) clipped to the norm by itself."""

    def one(tree):
        share = norm / jnp.maximum(optax.tree.norm(tree), norm)
        return jax.tree.map(lambda u: u * share, tree)

    def clip(updates, params):
        return {part: one(tree) for part, tree in updates.items()}

    return optax.stateless(clip)


def _scale_by_name(multipliers, layer_decay):
    def scale(updates, params):
        updates = map_named(lambda name, u: u * first_match(multipliers, name, 1.0), updates)
        if layer_decay is None:
            return updates
        return jax.tree.map(
            lambda u, rate: u * jnp.asarray(rate, u.dtype),
            updates,
            layer_rates(params, layer_decay),
        )

    return optax.stateless(scale)


def _layer_rms(name, x):
    """Root mean square, one per layer of a stack: [L, 1, ...] or [1, ...]."""
    dims = tuple(range(1 if STACKED.search(name) else 0, x.ndim))
    return jnp.sqrt(jnp.mean(jnp.square(x), axis=dims, keepdims=True))


def _scale_by_trust_ratio(adapt):
    def scale(name, u, p):
        if not adapt.search(name):
            return u
        wanted, given = _layer_rms(name, p), _layer_rms(name, u)
        ratio = wanted / jnp.where(given > 0, given, 1.0)
        return u * jnp.where((wanted > 0) & (given > 0), ratio, 1.0)

    return optax.stateless(lambda updates, params: map_named(scale, updates, params))


def _clip_by_layer_rms(threshold):
    def clip(name, u):
        return u / jnp.maximum(1.0, _layer_rms(name, u) / threshold)

    return optax.stateless(lambda updates, params: map_named(clip, updates))


def _scale_by_layer_rms(least=1e-3):
    def scale(name, u, p):
        return u * jnp.maximum(_layer_rms(name, p), least)

    return optax.stateless(lambda updates, params: map_named(scale, updates, params))


def _matrix_dims(name, leaf):
    """(reduction dims, output dims) of a kernel, without the layer dim of a stack."""
    dims = tuple(range(1 if STACKED.search(name) else 0, leaf.ndim))
    if re.search(r"(query|key|value)/kernel$", name):
        return dims[:1], dims[1:]
    return dims[:-1], dims[-1:]


def _size(x, dims):
    size = 1
    for dim in dims:
        size *= x.shape[dim]
    return size
