"""Slow transcriptions of the papers' equations, one loop per sum, in float64."""

from __future__ import annotations

import numpy as np


def gaussian(a: np.ndarray, b: np.ndarray, sigma2: float) -> float:
    return float(np.exp(-np.sum((a - b) ** 2) / (2 * sigma2)))


def median_sigma2(x: np.ndarray) -> float:
    """Gretton et al. 2012, section 8: sigma is the median distance, sigma**2 = that / 2 here."""
    n = len(x)
    pairs = [np.sum((x[i] - x[j]) ** 2) for i in range(n) for j in range(i + 1, n)]
    return float(np.median(pairs) / 2)


def mmd_unbiased(x: np.ndarray, y: np.ndarray, sigma2s: list[float]) -> float:
    """Gretton et al. 2012, Lemma 6, equation 3, with the mean of several kernels."""
    m, n, total = len(x), len(y), 0.0
    for s in sigma2s:
        for i in range(m):
            for j in range(m):
                total += (i != j) * gaussian(x[i], x[j], s) / (m * (m - 1))
        for i in range(n):
            for j in range(n):
                total += (i != j) * gaussian(y[i], y[j], s) / (n * (n - 1))
        for i in range(m):
            for j in range(n):
                total -= 2 * gaussian(x[i], y[j], s) / (m * n)
    return total / len(sigma2s)


def mmd_biased(x: np.ndarray, y: np.ndarray, sigma2s: list[float]) -> float:
    """Gretton et al. 2012, equation 5 (squared)."""
    m, n, total = len(x), len(y), 0.0
    for s in sigma2s:
        total += sum(gaussian(a, b, s) for a in x for b in x) / m**2
        total += sum(gaussian(a, b, s) for a in y for b in y) / n**2
        total -= 2 * sum(gaussian(a, b, s) for a in x for b in y) / (m * n)
    return total / len(sigma2s)


def mmd_linear(x: np.ndarray, y: np.ndarray, factors: list[float]) -> float:
    """Long et al. 2015, section 3.2: the mean of g over quadruples, bandwidth from their mean."""
    pairs = min(len(x), len(y)) // 2
    distances, total = [], 0.0
    for i in range(pairs):
        a, b, c, d = x[2 * i], x[2 * i + 1], y[2 * i], y[2 * i + 1]
        distances += [np.sum((p - q) ** 2) for p, q in ((a, b), (c, d), (a, d), (b, c))]
    sigma2 = float(np.mean(distances)) / 2
    for i in range(pairs):
        a, b, c, d = x[2 * i], x[2 * i + 1], y[2 * i], y[2 * i + 1]
        for f in factors:
            s = f * sigma2
            total += gaussian(a, b, s) + gaussian(c, d, s) - gaussian(a, d, s) - gaussian(b, c, s)
    return total / (pairs * len(factors))


def joint_mmd(xs: list[np.ndarray], ys: list[np.ndarray], factors: list[float]) -> float:
    """Long et al. 2017, equation 9: kernels multiplied over the layers."""
    sigma2 = [median_sigma2(np.concatenate([x, y])) for x, y in zip(xs, ys, strict=True)]

    def k(a: list[np.ndarray], b: list[np.ndarray]) -> float:
        product = 1.0
        for p, q, s in zip(a, b, sigma2, strict=True):
            product *= np.mean([gaussian(p, q, f * s) for f in factors])
        return float(product)

    s = list(zip(*xs, strict=True))
    t = list(zip(*ys, strict=True))
    total = sum(k(a, b) for a in s for b in s) / len(s) ** 2
    total += sum(k(a, b) for a in t for b in t) / len(t) ** 2
    return total - 2 * sum(k(a, b) for a in s for b in t) / (len(s) * len(t))


def coral(x: np.ndarray, y: np.ndarray) -> float:
    """Sun & Saenko 2016, equations 1 to 3."""

    def covariance(d: np.ndarray) -> np.ndarray:
        n = len(d)
        ones = np.ones((1, n))
        return (d.T @ d - (ones @ d).T @ (ones @ d) / n) / (n - 1)

    d = x.shape[1]
    return float(np.sum((covariance(x) - covariance(y)) ** 2) / (4 * d**2))


def softmax(z: np.ndarray) -> np.ndarray:
    e = np.exp(z - z.max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True)


def entropy(p: np.ndarray) -> float:
    return float(-sum(v * np.log(v) for v in p if v > 0))


def mean_entropy(z: np.ndarray) -> float:
    """Grandvalet & Bengio 2004, equation 6."""
    return float(np.mean([entropy(p) for p in softmax(z)]))


def entropy_of_mean(z: np.ndarray) -> float:
    """Liang et al. (2020), equation 4: the entropy of the mean prediction."""
    return entropy(sum(softmax(z)) / len(z))


def class_confusion(z: np.ndarray, temperature: float) -> float:
    """Jin et al. 2020, equations 2 to 7."""
    y = softmax(z / temperature)
    n, classes = y.shape
    certain = [1 + np.exp(-entropy(p)) for p in y]
    w = [n * c / sum(certain) for c in certain]
    confusion = np.zeros((classes, classes))
    for j in range(classes):
        for k in range(classes):
            confusion[j, k] = sum(y[i, j] * w[i] * y[i, k] for i in range(n))
    total = 0.0
    for j in range(classes):
        for k in range(classes):
            if j != k:
                total += confusion[j, k] / confusion[j].sum()
    return total / classes


def feature_norm(x: np.ndarray, y: np.ndarray, radius: float) -> float:
    """Xu et al. 2019, equation 3: hard feature norm of both domains."""
    return float(
        np.mean([(np.linalg.norm(v) - radius) ** 2 for v in x])
        + np.mean([(np.linalg.norm(v) - radius) ** 2 for v in y])
    )


def domain_loss(d_source: np.ndarray, d_target: np.ndarray) -> float:
    """Ganin et al. 2016, equation 9 with d = P(target); halved over the two domains."""
    on_source = -np.mean([np.log(1 - d) for d in d_source])
    return float((on_source - np.mean([np.log(d) for d in d_target])) / 2)


def weighted_domain_loss(
    d_source: np.ndarray, d_target: np.ndarray, g_source: np.ndarray, g_target: np.ndarray
) -> float:
    """Long et al. 2018, equation 8: each example counts 1 + exp(-H(g))."""
    w_s = [1 + np.exp(-entropy(p)) for p in g_source]
    w_t = [1 + np.exp(-entropy(p)) for p in g_target]
    on_source = -sum(w * np.log(1 - d) for w, d in zip(w_s, d_source, strict=True)) / sum(w_s)
    on_target = -sum(w * np.log(d) for w, d in zip(w_t, d_target, strict=True)) / sum(w_t)
    return float((on_source + on_target) / 2)


def marginal_and_conditional(y: np.ndarray, pseudo: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Long et al. 2013, equations 4 and 6: M_0 and the sum of M_c, entry by entry."""
    m, n = len(y), len(pseudo)
    m0, mc = np.zeros((m + n, m + n)), np.zeros((m + n, m + n))
    labels = np.concatenate([y, pseudo])
    for i in range(m + n):
        for j in range(m + n):
            sign = 1 if (i < m) == (j < m) else -1
            m0[i, j] = sign / ((m if i < m else n) * (m if j < m else n))
            c = labels[i]
            counts = [sum(y == c), sum(pseudo == c)]
            if labels[j] == c and min(counts) > 0:
                mc[i, j] = sign / (counts[int(i >= m)] * counts[int(j >= m)])
    return m0, mc


def geodesic_kernel(p_s: np.ndarray, p_t: np.ndarray, steps: int = 2000) -> np.ndarray:
    """Gong et al. 2012, equation 5: the integral over the geodesic, by the midpoint rule."""
    d = p_s.shape[1]
    full, _ = np.linalg.qr(p_s, mode="complete")
    r_s = full[:, d:]
    u1, cosine, vt = np.linalg.svd(p_s.T @ p_t)
    theta = np.arccos(np.clip(cosine, 0, 1))
    u2 = -(r_s.T @ p_t) @ vt.T / np.sin(theta)
    total = np.zeros((len(p_s), len(p_s)))
    for step in range(steps):
        a = (step + 0.5) / steps * theta
        phi = p_s @ u1 @ np.diag(np.cos(a)) - r_s @ u2 @ np.diag(np.sin(a))
        total += phi @ phi.T / steps
    return total


def neighbourhood_density(p: np.ndarray, temperature: float) -> float:
    """Saito et al. 2021, equations 1 and 2."""
    f = [row / np.linalg.norm(row) for row in p]
    total = 0.0
    for i, a in enumerate(f):
        e = [np.exp(a @ b / temperature) for j, b in enumerate(f) if j != i]
        q = np.array(e) / sum(e)
        total -= sum(v * np.log(v) for v in q)
    return float(total / len(f))


def huber(x: float) -> float:
    return 0.5 * x * x if abs(x) <= 1 else abs(x) - 0.5


def relational_distance(s: np.ndarray, t: np.ndarray) -> float:
    """Park et al. 2019, equations 4 to 7, over ordered pairs."""
    n = len(s)
    pairs = [(i, j) for i in range(n) for j in range(n) if i != j]

    def scaled(x: np.ndarray) -> list[float]:
        d = [float(np.linalg.norm(x[i] - x[j])) for i, j in pairs]
        return [v / np.mean(d) for v in d]

    return float(np.mean([huber(a - b) for a, b in zip(scaled(t), scaled(s), strict=True)]))


def relational_angle(s: np.ndarray, t: np.ndarray) -> float:
    """Park et al. 2019, equations 8 to 10; a pair of equal examples has the angle 0."""
    n, total = len(s), 0.0

    def angle(x: np.ndarray, i: int, j: int, k: int) -> float:
        a, b = x[i] - x[j], x[k] - x[j]
        length = np.linalg.norm(a) * np.linalg.norm(b)
        return float(a @ b / length) if length else 0.0

    for j in range(n):
        for i in range(n):
            for k in range(n):
                total += huber(angle(t, i, j, k) - angle(s, i, j, k))
    return total / n**3


def similarity_preserving(s: np.ndarray, t: np.ndarray) -> float:
    """Tung & Mori 2019, equations 2 to 4."""

    def similarities(x: np.ndarray) -> np.ndarray:
        g = x @ x.T
        return np.stack([row / np.linalg.norm(row) for row in g])

    return float(np.sum((similarities(t) - similarities(s)) ** 2) / len(s) ** 2)


def distilled(s: np.ndarray, t: np.ndarray, temperature: float) -> float:
    """Hinton et al. 2015, section 2, as a divergence."""
    p, q = softmax(t / temperature), softmax(s / temperature)
    return float(temperature**2 * np.mean(np.sum(p * (np.log(p) - np.log(q)), axis=1)))


def prototypical(s: np.ndarray, ys: np.ndarray, q: np.ndarray, yq: np.ndarray) -> float:
    """Snell et al. 2017, equations 1 and 2."""
    ways = int(ys.max()) + 1
    means = [np.mean([s[i] for i in range(len(s)) if ys[i] == c], axis=0) for c in range(ways)]
    losses = []
    for x, y in zip(q, yq, strict=True):
        e = [np.exp(-np.sum((x - m) ** 2)) for m in means]
        losses.append(-np.log(e[y] / sum(e)))
    return float(np.mean(losses))
