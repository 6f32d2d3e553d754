"""Text beside a number: which package does a docstring come from? (`pip install 'luthier[text]'`)

Prints:
    columns: text, number
    accuracy 0.99
    polars
"""

import inspect

import numpy as np
import polars as pl

import luthier

rows: dict[str, str] = {}
for package, owner in (("numpy", np), ("numpy", np.ndarray), ("polars", pl.DataFrame), ("polars", pl.Expr)):
    for name in dir(owner):
        words = inspect.getdoc(getattr(owner, name))
        if words and not name.startswith("_"):
            rows[" ".join(words.split())[:200]] = package

table = {"words": list(rows), "length": [len(words) for words in rows], "package": list(rows.values())}
result = luthier.train(table, target="package", epochs=20, verbose=False)
print(f"columns: {', '.join(column.kind for column in result.model.schema.columns)}")
print(f"accuracy {result.test['accuracy']:.2f}")
print(result.predict({"words": "Return the first n rows of the DataFrame, as a lazy query.", "length": 58})[0])
