"""A table: train a classifier on a CSV, read its figures, answer one row and say why.

Prints:
    accuracy 0.96, an answer that ignores the inputs 0.44
    Gentoo with probability 1.00
    bill_depth_mm moved it the most
"""

from pathlib import Path

import luthier

result = luthier.train(Path(__file__).with_name("penguins.csv"), target="species", epochs=20, verbose=False)
test = result.test
print(f"accuracy {test['accuracy']:.2f}, an answer that ignores the inputs {test['baseline']['accuracy']:.2f}")

penguin = {
    "island": "Biscoe",
    "bill_length_mm": 46.1,
    "bill_depth_mm": 13.2,
    "flipper_length_mm": 211,
    "body_mass_g": 4500,
    "sex": "female",
    "year": 2007,
}
probabilities = result.predict_proba(penguin)[0]
print(f"{result.predict(penguin)[0]} with probability {probabilities.max():.2f}")

why = result.model.explain(penguin, Path(__file__).with_name("penguins.csv"))
print(f"{why.columns[0]} moved it the most")
