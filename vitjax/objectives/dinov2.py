"""DINOv2 (arXiv:2304.07193): a student matches what its own average sees in other crops (DINO) and
behind masks (iBOT), and keeps its features apart (KoLeo). On any encoder: see docs/dinov2.md."""

import dataclasses
import functools
import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from vitjax import models
from vitjax.lookup import lookup
from vitjax.models import projection
from vitjax.models.features import Encoder, Shape
from vitjax.objectives import monitors
from vitjax.objectives.assignment import Centre, centred, sinkhorn
from vitjax.objectives.self_supervised import dino, gram, ibot, koleo
from vitjax.objectives.teacher import copy, cosine, due, follow, ramp
from vitjax.ops import masks as mask_lib
from vitjax.ops.position import resample

# B images, G = 2 global crops and V crops in all of each, h x w grid of a global crop, D width, K
# prototypes. Crops of an image stand beside one another, so a batch is cut over devices by images.

G = 2
TARGETS = ("centering", "sinkhorn")


@dataclasses.dataclass(frozen=True, kw_only=True)
class DINOv2:
    """An `objective.Objective`. views: {"global": [B, 2, S, S, 3], maybe "local": [B, L, s, s, 3],
    maybe "gram": [B, 2, S', S', 3]} of ops.multicrop.

    prototypes, targets ("centering" or "sinkhorn"), teacher_temperature (from
    teacher_temperature_start, in a line over temperature_warmup_steps) and momentum (of the
    teacher, to momentum_final, half a cosine over momentum_steps) follow from the data set where a
    config leaves them out: `presets`. dino, ibot, koleo, gram: weights of the losses, 0 leaves one
    out (ibot needs encoder.mask_token). local_weight: of pairs with a local crop.
    head_bottleneck, head_hidden, head_layers, last_layer: of the heads, see models.projection.
    patch_prototypes: of a head of its own for patches; None shares the other one.
    mask_share, mask_ratio, mask_least: see ops.masks.block_masks. sinkhorn_steps, centre_keep: of
    the targets. monitor_steps: steps between two looks at the features.
    Gram anchoring (arXiv:2508.10104, sec. 4): weight gram from gram_start_steps on, towards a copy
    of the teacher's encoder taken then and every gram_every_steps after that (0: never), at most
    gram_copies times. teacher: encoder section of a frozen teacher, whose weights are those of the
    run in the config's teacher_from; then nothing is masked, and the student's average is a spare.
    packed: all crops of an image stand in one sequence of the student (Encoder.apply_packed).
    Raises ValueError, naming the config key, where a value is out of range.
    """

    encoder: Encoder
    image_size: int
    prototypes: int
    targets: str
    teacher_temperature: float
    teacher_temperature_start: float
    temperature_warmup_steps: int
    momentum: float
    momentum_steps: int
    momentum_final: float = 1.0
    student_temperature: float = 0.1
    dino: float = 1.0
    ibot: float = 1.0
    koleo: float = 0.1
    gram: float = 0.0
    local_weight: float = 1.0
    head_bottleneck: int = 256
    head_hidden: int = 2048
    head_layers: int = 3
    last_layer: str = "scaled"
    patch_prototypes: int | None = None
    mask_share: float = 0.5
    mask_ratio: tuple[float, float] = (0.1, 0.5)
    mask_least: int = 4
    sinkhorn_steps: int = 3
    centre_keep: float = 0.9
    monitor_steps: int = 20
    gram_start_steps: int = 0
    gram_every_steps: int = 0
    gram_copies: int = 3
    teacher: Mapping[str, Any] | None = None
    packed: bool = False

    classify = None
    head = None

    def __post_init__(self):
        check(self)

    @functools.cached_property
    def shape(self) -> Shape:
        return self.encoder.shape(self.image_size)

    @functools.cached_property
    def teacher_shape(self) -> Shape:
        return self.teacher_encoder.shape(self.image_size)

    @functools.cached_property
    def teacher_encoder(self) -> Encoder:
        """Draws nothing; BatchNorm's statistics are those of its own batches."""
        if self.teacher is None:
            return self.encoder.still()
        return models.create(**{"dtype": self.shape.dtype, **self.teacher})

    def heads(self, shape: Shape) -> dict:
        """{"dino_head", maybe "patch_head"}: on an encoder of that shape."""
        settings = {
            "bottleneck": self.head_bottleneck,
            "hidden": self.head_hidden,
            "layers": self.head_layers,
            "last_layer": self.last_layer,
            "dtype": shape.dtype,
        }
        made = {"dino_head": projection.prototype_head(shape.pooled, self.prototypes, **settings)}
        if self.ibot and self.patch_prototypes is not None:
            made["patch_head"] = projection.prototype_head(
                shape.patches, self.patch_prototypes, **settings
            )
        elif self.ibot and shape.patches != shape.pooled:
            raise ValueError(
                f"objective.patch_prototypes is None, but vectors of images have {shape.pooled} "
                f"numbers and those of patches {shape.patches}: give patches a head of their own"
            )
        return made

    # What follows is the contract.

    def init(self, key):
        keys = jax.random.split(key, 3)
        params, stats = self._start(self.encoder, self.shape, keys[0])
        extra = {"stats": stats, "ema": copy(params), "ema_stats": copy(stats)}
        if self.targets == "centering":
            extra["centre"] = {
                kind: Centre().start(K) for kind, K in self._prototypes_of_each().items()
            }
        if self.gram:
            extra["gram"] = copy(params["encoder"])
        if self.teacher is not None:
            made, made_stats = self._start(self.teacher_encoder, self.teacher_shape, keys[1])
            extra |= {"teacher": made, "teacher_stats": made_stats}
        return params, extra

    def loss(self, params, extra, views, key, step):
        B = views["global"].shape[0]
        if B < 2 and self.koleo:
            raise ValueError(
                "objective.koleo needs two images at least in a micro-batch: raise batch_size, or "
                "set accumulate or objective.koleo to less"
            )
        mask_key, noise = jax.random.split(key)
        hidden = None
        if self.ibot and self.teacher is None:
            hidden = mask_lib.block_masks(
                mask_key,
                B,
                G,
                self.shape.grid,
                share=self.mask_share,
                ratio=tuple(self.mask_ratio),
                least=self.mask_least,
            )
        if self.gram:
            extra = extra | {"gram": self._gram_copy(extra, step)}
        taught, extra = self._teach(extra, views, hidden, step)
        learned, stats = self._study(params, extra["stats"], views, hidden, noise)

        parts = {"dino": dino(learned["crops"], taught["crops"], self.student_temperature)}
        loss = self.dino * parts["dino"]
        if self.local_weight != 1.0:
            loss = self.dino * dino(
                learned["crops"], taught["crops"], self.student_temperature, self.local_weight
            )
        if self.ibot:
            weights = taught["weights"]
            parts["ibot"] = ibot(
                learned["patches"], taught["patches"], weights, self.student_temperature
            )
            loss = loss + self.ibot * parts["ibot"]
        if self.koleo:
            parts["koleo"] = sum(koleo(learned["pooled"][:, g]) for g in range(G))
            loss = loss + self.koleo * parts["koleo"]
        if self.gram:
            parts["gram"] = self._gram_loss(extra, views, learned["maps"])
            started = jnp.asarray(step) >= self.gram_start_steps
            loss = loss + jnp.where(started, self.gram, 0.0) * parts["gram"]
        metrics = parts | self._monitors(taught, parts["dino"], step)
        return loss, (jax.lax.stop_gradient(metrics), extra | {"stats": stats})

    def after(self, params, extra, step):
        momentum = self._momentum(step)
        extra = extra | {"ema": follow(extra["ema"], params, momentum)}
        if not extra["ema_stats"] or self.teacher is not None:
            extra["ema_stats"] = follow(extra["ema_stats"], extra["stats"], momentum)
        if self.targets == "centering":
            moved = Centre(self.centre_keep).moved
            extra["centre"] = {kind: moved(state) for kind, state in extra["centre"].items()}
        return extra

    def encoder_variables(self, params, extra):
        return {"params": extra["ema"]["encoder"], "stats": extra["ema_stats"]}

    @property
    def expect(self) -> str:
        """See `first_loss`: of crops that a fresh encoder does not tell apart."""
        spread = 0.02 if self.last_layer == "plain" else self.head_bottleneck**-0.5
        sharpness = self.teacher_temperature_start if self.targets == "centering" else None
        loss = monitors.first_loss(self.prototypes, spread, self.student_temperature, sharpness)
        patches = f", ibot near {self.mask_share * loss:.2f}" if self.ibot else ""
        return (
            f"expect at step 0: dino near {loss:.2f}{patches} (ln K = "
            f"{math.log(self.prototypes):.2f}; a fresh encoder that tells crops apart is higher)"
        )

    def alarm(self, step: int, metrics: dict) -> str:
        """Near the start everything is alike: nothing is said in the warm-up of the temperature's
        first third, at most 500 steps."""
        if step < min(500, self.temperature_warmup_steps // 3):
            return ""
        return monitors.collapse(metrics, self.prototypes)

    def flops(self, views) -> float:
        """Six per multiply-add that is learned, two per one of the teacher; heads left out."""
        size = views["global"].shape[2]
        total = G * 6.0 * self.encoder.macs(size) + G * 2.0 * self.teacher_encoder.macs(size)
        if "local" in views:
            crops, local = views["local"].shape[1:3]
            total += crops * 6.0 * self.encoder.macs(local)
        if "gram" in views:
            total += G * 2.0 * self.encoder.macs(views["gram"].shape[2])
        return total

    # What the contract is made of.

    def _start(self, encoder, shape, key):
        """Fresh (params, stats) of an encoder and the heads on it."""
        keys = iter(jax.random.split(key, 3))
        variables = encoder.init(next(keys), image_size=self.image_size)
        params = {"encoder": variables["params"]}
        params |= {name: head.init(next(keys)) for name, head in self.heads(shape).items()}
        return params, variables["stats"]

    def _prototypes_of_each(self) -> dict[str, int]:
        counts = {"crops": self.prototypes}
        if self.ibot:
            counts["patches"] = self.patch_prototypes or self.prototypes
        return counts

    def _momentum(self, step):
        return cosine(step, self.momentum, self.momentum_final, self.momentum_steps)

    def _logits(self, params, shape, rows, patches):
        """Of vectors [n, D] and of patches [m, D']; patches may be None."""
        heads = self.heads(shape)
        of_patches = "patch_head" if "patch_head" in heads else "dino_head"
        logits = heads["dino_head"].apply(params["dino_head"], rows)
        if patches is None:
            return logits, None
        return logits, heads[of_patches].apply(params[of_patches], patches)

    def _teach(self, extra, views, hidden, step):
        """Targets of the global crops [B, 2, K] and of hidden patches [m, K], and what else the
        teacher has seen; (all that, extra with its statistics and centres)."""
        kind, train = ("ema", True) if self.teacher is None else ("teacher", False)
        weights, stats = extra[kind], extra[f"{kind}_stats"]
        images = views["global"]
        features, stats = self.teacher_encoder.apply(
            {"params": weights["encoder"], "stats": stats},
            images.reshape(-1, *images.shape[2:]),
            train=train and bool(stats),
        )
        patches, each = self._patches(features.patches, hidden)
        crops, of_patches = self._logits(weights, self.teacher_shape, features.pooled, patches)
        temperature = ramp(
            step,
            self.teacher_temperature_start,
            self.teacher_temperature,
            self.temperature_warmup_steps,
        )
        taught, extra = {"weights": each}, extra | {f"{kind}_stats": stats}
        for name, logits in {"crops": crops, "patches": of_patches}.items():
            if logits is not None:
                taught[name], extra = self._assign(name, logits, temperature, extra)
        taught["crops"] = taught["crops"].reshape(images.shape[0], G, -1)
        taught["pooled"] = features.pooled.reshape(images.shape[0], G, -1)[:, 0]
        taught["maps"] = features.patches.reshape(-1, G, *features.patches.shape[1:])[:, 0]
        return taught, extra

    def _assign(self, name, logits, temperature, extra):
        """(targets [n, K], extra)."""
        if self.targets == "sinkhorn":
            return sinkhorn(logits, temperature, self.sinkhorn_steps), extra
        state = extra["centre"][name]
        seen = extra["centre"] | {name: Centre(self.centre_keep).seen(state, logits)}
        return centred(logits, state["mean"], temperature), extra | {"centre": seen}

    def _study(self, params, stats, views, hidden, key):
        """Logits of all crops [B, V, K] and of hidden patches, vectors of the global crops
        [B, 2, D] and their maps, and the statistics after them."""
        B, size = views["global"].shape[0], views["global"].shape[2:]
        variables = {"params": params["encoder"], "stats": stats}
        mask = None if hidden is None else hidden.mask
        if self.packed and "local" in views:
            images = (views["global"], views["local"])
            seen, stats = self.encoder.apply_packed(
                variables, images, train=True, key=key, mask=mask
            )
        else:
            keys = jax.random.split(key)
            mask = None if mask is None else mask.reshape(-1, *mask.shape[2:])
            one, stats = self.encoder.apply(
                variables, views["global"].reshape(-1, *size), train=True, key=keys[0], mask=mask
            )
            seen = (one,)
            if "local" in views:
                variables, images = variables | {"stats": stats}, views["local"]
                images = images.reshape(-1, *images.shape[2:])
                local, stats = self.encoder.apply(variables, images, train=True, key=keys[1])
                seen = (one, local)
        features, pooled = seen[0], seen[0].pooled.reshape(B, G, -1)
        rows = jnp.concatenate([x.pooled.reshape(B, -1, pooled.shape[-1]) for x in seen], axis=1)
        patches, _ = self._patches(features.patches, hidden)
        crops, of_patches = self._logits(
            params, self.shape, rows.reshape(-1, rows.shape[-1]), patches
        )
        learned = {"crops": crops.reshape(B, rows.shape[1], -1), "patches": of_patches}
        return learned | {"pooled": pooled, "maps": features.patches}, stats

    def _patches(self, maps, hidden):
        """(the patches [m, D] that are compared, their weights [m]): the hidden ones, or all; None
        without a loss on patches. maps: [B * 2, h, w, D], moved to the teacher's grid."""
        if not self.ibot:
            return None, None
        if hidden is not None:
            return mask_lib.gather(maps, hidden.places), hidden.weights.reshape(-1)
        grid = self.teacher_shape.grid
        if maps.shape[1:3] != grid:
            maps = jax.image.resize(maps, (maps.shape[0], *grid, maps.shape[-1]), "linear")
        rows = maps.reshape(-1, maps.shape[-1])
        return rows, jnp.full(rows.shape[:1], 1.0 / rows.shape[0], jnp.float32)

    def _gram_copy(self, extra, step):
        """The encoder whose patches are the anchor: taken at the start and every so many steps."""
        taken = due(step, self.gram_start_steps, self.gram_every_steps, self.gram_copies)
        latest = extra["ema"]["encoder"]
        return jax.tree.map(lambda new, old: jnp.where(taken, new, old), latest, extra["gram"])

    def _gram_loss(self, extra, views, maps):
        """Of all global crops; the anchor may see them larger (views "gram")."""
        images = views["gram"] if "gram" in views else views["global"]
        features, _ = self.encoder.still().apply(
            {"params": extra["gram"], "stats": extra["ema_stats"]},
            images.reshape(-1, *images.shape[2:]),
        )
        h, w = maps.shape[1:3]
        anchor = jax.vmap(lambda one: resample(one, h, w, "cubic"))(
            features.patches.astype(jnp.float32)
        )
        flat = (x.reshape(x.shape[0], h * w, x.shape[-1]) for x in (maps, anchor))
        return gram(*flat)

    def _monitors(self, taught, cross_entropy, step):
        targets = taught["crops"].reshape(-1, taught["crops"].shape[-1])
        numbers = monitors.of_targets(targets, cross_entropy) | {"momentum": self._momentum(step)}
        if targets.shape[0] < 2 * G:
            return numbers
        return numbers | monitors.of_features(
            step, self.monitor_steps, taught["pooled"], taught["maps"]
        )


def check(objective: DINOv2) -> None:
    """Raise ValueError, naming the config key, where a value is out of range."""
    lookup(dict.fromkeys(TARGETS), objective.targets, "objective.targets")
    low, high = objective.mask_ratio
    expected = {
        "prototypes": (objective.prototypes >= 2, "two at least"),
        "teacher_temperature": (objective.teacher_temperature > 0, "a number above 0"),
        "teacher_temperature_start": (objective.teacher_temperature_start > 0, "a number above 0"),
        "student_temperature": (objective.student_temperature > 0, "a number above 0"),
        "momentum": (0 <= objective.momentum <= 1, "a share from 0 to 1"),
        "momentum_final": (0 <= objective.momentum_final <= 1, "a share from 0 to 1"),
        "centre_keep": (0 <= objective.centre_keep < 1, "a share from 0 up to below 1"),
        "mask_share": (0 < objective.mask_share <= 1, "a share above 0"),
        "mask_ratio": (0 <= low <= high < 1, "0 <= low <= high < 1"),
        "mask_least": (objective.mask_least >= 1, "a number of patches above 0"),
        "sinkhorn_steps": (objective.sinkhorn_steps >= 1, "1 at least"),
        "monitor_steps": (objective.monitor_steps >= 1, "1 at least"),
    }
    expected |= {
        name: (getattr(objective, name) >= 0, "a weight, 0 for none")
        for name in ("dino", "ibot", "koleo", "gram", "local_weight")
    }
    for key, (good, what) in expected.items():
        if not good:
            raise ValueError(f"objective.{key}={getattr(objective, key)!r}: expected {what}")
