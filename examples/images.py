"""Images: train a convolutional network on 8 x 8 pixels of handwritten digits (`pip install scikit-learn`).

Prints:
    network: convnet
    accuracy 0.98
    the first ten: [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]
"""

import tempfile
from pathlib import Path

import numpy as np
from sklearn.datasets import load_digits

import luthier

digits = load_digits()
with tempfile.TemporaryDirectory() as folder:
    # a folder with one folder a class is read in the same way: luthier.train("photos")
    file = Path(folder) / "digits.npz"
    np.savez(file, x=(digits.images * 15).astype(np.uint8), y=digits.target)
    result = luthier.train(file, arrays="images", epochs=3, augment=("shift",), verbose=False)
    print(f"network: {result.model.blueprint.family}")
    print(f"accuracy {result.test['accuracy']:.2f}")
    print(f"the first ten: {result.predict(file)[:10].tolist()}")
