"""LeNet-5 (LeCun, Bottou, Bengio, Haffner 1998): its forward and backward pass on NumPy arrays.

image (1, 28, 28) -> conv 5x5, tanh, mean of 2x2 -> conv 5x5, tanh, mean of 2x2 -> 120 -> 84 -> 10
"""

import numpy as np

import fastdl


class Tape:
    """Runs ops one after the other and remembers how to go back."""

    def __init__(self):
        self.pullbacks = []

    def __call__(self, op, x, *args, **kwargs):
        y, pullback = fastdl.vjp(op, x, *args, **kwargs)
        self.pullbacks.append((pullback, y.shape))
        return y

    def backward(self, dy):
        """Gradients of all parameters, in the order of their use."""
        grads = []
        for pullback, shape in reversed(self.pullbacks):
            dy, *dparams = pullback(dy.reshape(shape))
            grads = dparams + grads
        return grads


class LeNet5:
    def __init__(self, rng, dtype=np.float32):
        shapes = [(6, 1, 5, 5), (16, 6, 5, 5), (120, 400), (84, 120), (10, 84)]
        self.params = []  # weight, bias, weight, bias, ...
        for shape in shapes:
            bound = np.sqrt(3 / np.prod(shape[1:]))  # variance 1 / fan_in
            self.params.append(rng.uniform(-bound, bound, shape).astype(dtype))
            self.params.append(np.zeros(shape[0], dtype))

    def forward(self, x, tape):
        """Scores (N, 10) of images (N, 1, 28, 28)."""
        weight1, bias1, weight2, bias2, weight3, bias3, weight4, bias4, weight5, bias5 = self.params
        # (N, 6, 28, 28); nobody asks for the gradient of the images.
        x = tape(fastdl.conv2d, x, weight1, bias1, padding=2, wrt=("weight", "bias"))
        x = tape(fastdl.avg_pool2d, tape(fastdl.tanh, x), 2)  # (N, 6, 14, 14)
        x = tape(fastdl.conv2d, x, weight2, bias2)  # (N, 16, 10, 10)
        x = tape(fastdl.avg_pool2d, tape(fastdl.tanh, x), 2)  # (N, 16, 5, 5)
        x = x.reshape(len(x), 400)
        x = tape(fastdl.tanh, tape(fastdl.linear, x, weight3, bias3))
        x = tape(fastdl.tanh, tape(fastdl.linear, x, weight4, bias4))
        return tape(fastdl.linear, x, weight5, bias5)

    def loss_and_gradients(self, x, target):
        tape = Tape()
        scores = self.forward(x, tape)
        loss, pullback = fastdl.vjp(fastdl.cross_entropy, scores, target)
        dscores, _ = pullback(np.ones_like(loss))
        return loss, tape.backward(dscores)
