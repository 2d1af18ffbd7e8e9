"""The train step: one function for every objective, on every mesh."""

import jax
import jax.numpy as jnp
import optax

from vitjax.train.state import State, stream


def make_step(*, objective, tx, schedule, views, seed: int, accumulate: int = 1):
    """Returns step(state, batch) -> (state, metrics), to be jitted with the state donated.

    views(batch, key) -> what the objective's loss takes. accumulate: micro-batches per update; the
    gradient is their mean, and views are made of the whole batch first, so that mixing does not
    depend on it. A step whose loss or gradient is not finite leaves the state as it was
    (metrics["skipped"] is 1); the step counter goes on, so the run sees the next batch.
    """
    grad_fn = jax.value_and_grad(objective.loss, has_aux=True)

    def gradients(state, batch, key):
        if accumulate == 1:
            return grad_fn(state.params, state.extra, batch, key, state.step)
        # Micro-batch a is rows a, a + A, a + 2A, ...: each device cuts its own rows, nothing moves.
        micro = jax.tree.map(
            lambda x: jnp.moveaxis(x.reshape(-1, accumulate, *x.shape[1:]), 1, 0), batch
        )

        def one(carry, inputs):
            extra, total = carry
            part, i = inputs
            (loss, (metrics, extra)), grads = grad_fn(
                state.params, extra, part, jax.random.fold_in(key, i), state.step
            )
            return (extra, jax.tree.map(jnp.add, total, grads)), (loss, metrics)

        zeros = jax.tree.map(jnp.zeros_like, state.params)
        (extra, total), (losses, metrics) = jax.lax.scan(
            one, (state.extra, zeros), (micro, jnp.arange(accumulate))
        )
        grads = jax.tree.map(lambda g: g / accumulate, total)
        return (losses.mean(), (jax.tree.map(lambda m: m.mean(0), metrics), extra)), grads

    def step(state: State, batch):
        key = jax.random.fold_in(stream(seed, "noise"), state.step)
        batch = views(batch, stream(seed, "views"))
        (loss, (metrics, extra)), grads = gradients(state, batch, key)
        updates, opt = tx.update(grads, state.opt, state.params)
        params = optax.apply_updates(state.params, updates)
        extra = objective.after(params, extra, state.step)

        grad_norm = optax.tree.norm(grads)
        finite = jnp.isfinite(loss) & jnp.isfinite(grad_norm)

        def keep(new, old):
            # Counters go on: the schedule that is applied stays the one that is logged.
            counter = jnp.issubdtype(new.dtype, jnp.integer)
            return new if counter else jnp.where(finite, new, old)

        kept = jax.tree.map(keep, (params, opt, extra), (state.params, state.opt, state.extra))
        metrics = metrics | {
            "loss": loss,
            "grad_norm": grad_norm,
            "learning_rate": jnp.asarray(schedule(state.step), jnp.float32),
            "skipped": 1.0 - finite.astype(jnp.float32),
        }
        return State(state.step + 1, *kept), metrics

    return step
