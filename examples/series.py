"""Series of unequal length: which form has a wave in noise?

Prints:
    network: rocket
    accuracy 1.00
    square
"""

import numpy as np

import luthier

draw = np.random.default_rng(0)
FORMS = {
    "sine": np.sin,
    "square": lambda phase: np.sign(np.sin(phase)),
    "saw": lambda phase: (phase / np.pi) % 2 - 1,
}


def wave(form: str, steps: int) -> list[float]:
    phase = np.linspace(0, draw.uniform(12, 25), steps) + draw.uniform(0, 6)
    return list(FORMS[form](phase) + draw.normal(0, 0.3, steps))


forms = [list(FORMS)[i % 3] for i in range(450)]
# one row a series, a list in a cell; a table with a row a step is read with series="name"
table = {"wave": [wave(form, int(draw.integers(40, 80))) for form in forms], "form": forms}
result = luthier.train(table, target="form", epochs=6, verbose=False)
print(f"network: {result.model.blueprint.family}")
print(f"accuracy {result.test['accuracy']:.2f}")
print(result.predict([{"wave": wave("square", 60)}])[0])
