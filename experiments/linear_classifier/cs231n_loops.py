"""The source documents' three implementations of the linear softmax classifier, in NumPy, with their errata mended.

X is [samples, features], W is [features, classes], y holds class numbers. Each returns the mean loss with its
regulariser, and the gradient in W (M16).
"""

import numpy as np

LossAndGradient = tuple[float, np.ndarray]


def guangcity_naive(W: np.ndarray, X: np.ndarray, y: np.ndarray, reg: float) -> LossAndGradient:
    """The loop of guangcity's «Softmax», with the regulariser λΣW² (M17).

    As printed it adds to ``dW[i, j]``, and neither divides the gradient by N nor gives it the regulariser's 2λW.
    """
    loss = 0.0
    dW = np.zeros_like(W)
    for i in range(X.shape[0]):
        score = X[i] @ W
        score = np.exp(score - max(score))
        score /= np.sum(score)
        loss -= np.log(score[y[i]])
        for j in range(W.shape[1]):
            if j != y[i]:
                dW[:, j] += score[j] * X[i]
            else:
                dW[:, j] += (score[j] - 1.0) * X[i]
    return float(loss / X.shape[0] + reg * np.sum(W * W)), dW / X.shape[0] + 2.0 * reg * W


def csdn_native(W: np.ndarray, X: np.ndarray, y: np.ndarray, reg: float) -> LossAndGradient:
    """The loop of CSDN 62227603, with the regulariser ½λΣW² (M17)."""
    loss = 0.0
    dW = np.zeros_like(W)
    for i in range(X.shape[0]):
        scores = X[i] @ W
        shift_scores = scores - max(scores)
        loss += -shift_scores[y[i]] + np.log(sum(np.exp(shift_scores)))
        for j in range(W.shape[1]):
            softmax_output = np.exp(shift_scores[j]) / sum(np.exp(shift_scores))
            if j == y[i]:
                dW[:, j] += (-1.0 + softmax_output) * X[i]
            else:
                dW[:, j] += softmax_output * X[i]
    return float(loss / X.shape[0] + 0.5 * reg * np.sum(W * W)), dW / X.shape[0] + reg * W


def csdn_vectorized(W: np.ndarray, X: np.ndarray, y: np.ndarray, reg: float) -> LossAndGradient:
    """The vectorised version of CSDN 62227603, with the regulariser ½λΣW² (M17); it prints ``x.T`` for ``X.T``."""
    samples = np.arange(X.shape[0])
    scores = X @ W
    shift_scores = scores - np.max(scores, axis=1, keepdims=True)
    softmax_output = np.exp(shift_scores) / np.sum(np.exp(shift_scores), axis=1, keepdims=True)
    loss = -np.sum(np.log(softmax_output[samples, y])) / X.shape[0]
    dS = softmax_output.copy()
    dS[samples, y] -= 1.0
    return float(loss + 0.5 * reg * np.sum(W * W)), X.T @ dS / X.shape[0] + reg * W
