"""No learning: weights that came from elsewhere without a head, to be evaluated or started from."""

from vitjax.objectives.objective import Objective


def frozen(*, encoder, image_size: int) -> Objective:
    """An encoder and nothing beside it. Its loss raises ValueError: there is nothing to train."""

    def init(key):
        variables = encoder.init(key, image_size=image_size)
        return {"encoder": variables["params"]}, {"stats": variables["stats"]}

    def loss(params, extra, views, key, step):
        raise ValueError(
            "objective.name='frozen' trains nothing: give another, and these weights as init_from"
        )

    def after(params, extra, step):
        return extra

    def encoder_variables(params, extra):
        return {"params": params["encoder"], "stats": extra["stats"]}

    return Objective(init, loss, after, encoder_variables)
