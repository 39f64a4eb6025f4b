"""NumPy references of every op: the oracle of the tests, the bench and ``verify``.

Each file states an op by its formula, computes in float64 and returns float64, whatever it is given.
What an op means is what ``torch.nn.functional`` of PyTorch 2.13 means by it.
"""
