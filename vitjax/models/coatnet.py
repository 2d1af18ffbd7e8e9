"""Not written yet."""


def create(variant):
    raise NotImplementedError
