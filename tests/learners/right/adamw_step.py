"""A learner's solution: decay first, as torch does it."""


def adamw_step(parameter, gradient, first, second, step, lr, beta1, beta2, eps, weight_decay):
    parameter = parameter * (1 - lr * weight_decay)
    first = beta1 * first + (1 - beta1) * gradient
    second = beta2 * second + (1 - beta2) * gradient**2
    corrected = first / (1 - beta1**step)
    root = (second / (1 - beta2**step)) ** 0.5
    return parameter - lr * corrected / (root + eps), first, second
