"""K-means on unit vectors for many cells: nearest centres by k-d tree, coarse to fine, and centres put where they help.

Points on the ground lie on a surface, where a k-d tree finds the nearest of k centres in about log k steps. Centres are
drawn in proportion to squared distances (Arthur and Vassilvitskii, k-means++, 2007), but as many at a time as there are
already, and settle by Lloyd's rounds (1982) on a sample that grows with them. What is then left to win lies in centres
that crowd in one place while another lacks one; `_relocated` moves these. Nothing depends on the number of threads.
"""

import os

import numpy as np

DEGENERATE_LENGTH = 1e-6  # a mean of unit vectors this short has no direction
SAME_PLACE = 1e-12  # chord below which a point lies on a centre: 6 micrometres
SAMPLE_PER_CELL = 12  # points per centre while centres are still being added
SMALLEST_SAMPLE = 2000  # below this a sample saves nothing
GROWTH = 4  # centres settle each time there are so many times more
STEP_LENGTH = 1.5  # share of the way to the mean; 1 is Lloyd's, from 2 on sums of squares may grow
EXPECTED_GAIN = 0.5  # of the cost that the first estimate of a split must reach; it wins more once it settles
RELOCATIONS = 10
SMALLEST_GAIN = 5e-3  # share of the sum of squares that a relocation must win for another to follow
SETTLED = 3e-4  # share below which a round of Lloyd's is the last
LAST_ROUNDS = 20
POINTS_PER_THREAD = 5000  # fewer are searched sooner than a thread starts


def spatial_order(points: np.ndarray) -> np.ndarray:
    """`[n]` row numbers of points `[n, 3]` such that neighbours in the list are neighbours on the ground.

    Search trees answer sooner in this order than in a random one, and every m-th row is an even sample of the ground.
    """
    from scipy.spatial import cKDTree

    return np.asarray(cKDTree(points, compact_nodes=False, balanced_tree=False).indices, dtype=np.int64)


def threads() -> int:
    """Threads a search may use: the cores of this process, or fewer where `OMP_NUM_THREADS` says so."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    wanted = os.environ.get("OMP_NUM_THREADS", "")
    return min(cores, int(wanted)) if wanted.isdecimal() and int(wanted) > 0 else cores


def nearest(centers: np.ndarray, points: np.ndarray) -> np.ndarray:
    """`[n]` the nearest of `[N, 3]` unit vectors for each of `[n, 3]`; chords order like great circles."""
    if len(centers) == 1:
        return np.zeros(len(points), dtype=np.int64)
    return _query(centers, points)[1]


def cluster(points: np.ndarray, k: int, seed: int) -> np.ndarray:
    """Centres `[K, 3]` of k-means on unit vectors `[n, 3]`; K is less than k where there are fewer distinct points.

    The points are in spatial order, on which the answer depends, so it must belong to them; `k` is at least 2.
    """
    generator = np.random.default_rng(seed)
    centers = points[[generator.integers(len(points))]]  # (1, 3)
    targets = [k]
    while targets[0] > 2 * GROWTH:
        targets.insert(0, targets[0] // GROWTH)
    sample = points
    for target in targets:
        step = max(1, len(points) // max(SMALLEST_SAMPLE, SAMPLE_PER_CELL * target))
        sample = points[generator.integers(step) :: step]
        centers = _settled(sample, _grown(sample, centers, target, generator), 2)[0]
    if len(sample) < len(points):
        centers = _relocated(sample, centers, RELOCATIONS // 2)
        centers = _settled(points, _grown(points, centers, k, generator), 1)[0]
    centers = _relocated(points, centers, RELOCATIONS)
    centers, counts = _settled(points, centers, LAST_ROUNDS)
    if counts.min() == 0:
        centers = _settled(points, _grown(points, centers[counts > 0], k, generator), 2)[0]
    return centers


def _query(centers: np.ndarray, points: np.ndarray, neighbours: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """Chords to the nearest centres and their numbers, each `[n]`, or `[n, neighbours]` for more than one."""
    from scipy.spatial import cKDTree

    workers = max(1, min(threads(), len(points) // POINTS_PER_THREAD))
    chord, number = cKDTree(centers).query(points, k=neighbours, workers=workers)
    return chord, np.asarray(number, dtype=np.int64)


def _sums(label: np.ndarray, values: np.ndarray, k: int) -> np.ndarray:
    """Sums `[k, D]` of the rows of `values` `[n, D]` with each label."""
    return np.stack([np.bincount(label, weights=column, minlength=k) for column in values.T], axis=1)


def _on_sphere(vectors: np.ndarray) -> np.ndarray:
    """`[k, 3]` scaled to length 1."""
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def _grown(points: np.ndarray, centers: np.ndarray, k: int, generator: np.random.Generator) -> np.ndarray:
    """`[K, 3]` the centres and further points, drawn by squared chord until there are `k` or no place is left.

    A batch is drawn at even steps of the sum of squares along the spatial order, so that it spreads over the ground.
    """
    while len(centers) < k:
        chord = _query(centers, points)[0]
        total = np.cumsum(np.where(chord > SAME_PLACE, chord, 0.0) ** 2)
        if total[-1] <= 0:
            break
        batch = min(len(centers), k - len(centers))
        mark = (np.arange(batch) + generator.random()) / batch * total[-1]
        rows = np.searchsorted(total, np.minimum(mark, np.nextafter(total[-1], 0.0)), side="right")
        centers = np.concatenate([centers, np.unique(points[np.unique(rows)], axis=0)])
    return centers


def _settled(points: np.ndarray, centers: np.ndarray, rounds: int) -> tuple[np.ndarray, np.ndarray]:
    """Move centres by Lloyd's rounds.

    All rounds but the last overshoot the mean by half the way, which settles in fewer of them and cannot make things
    worse before points change sides (steps below 2 do not). There are fewer rounds once one wins a share of less than
    `SETTLED`. Gives centres `[k, 3]`, and the number of points `[k]` each had in the last round; one without points
    stays.
    """
    k = len(centers)
    counts = np.zeros(k, dtype=np.int64)
    for turn in range(rounds):
        chord, label = _query(centers, points)
        counts = np.bincount(label, minlength=k)
        total = _sums(label, points, k)  # (k, 3)
        directed = np.linalg.norm(total, axis=1) > DEGENERATE_LENGTH * np.maximum(counts, 1)
        mean = centers.copy()
        mean[directed] = _on_sphere(total[directed])
        won = (counts * np.square(mean - centers).sum(axis=1)).sum()
        if turn == rounds - 1 or won <= SETTLED * np.square(chord).sum():
            return mean, counts
        centers = _on_sphere(centers + STEP_LENGTH * (mean - centers))
    return centers, counts


def _relocated(points: np.ndarray, centers: np.ndarray, attempts: int) -> np.ndarray:
    """Move centres from where they are least missed to cells worth splitting, while that lowers the sum of squares.

    At most `attempts` times; gives the best centres met, `[k, 3]`.
    """
    best, least = centers, np.inf
    for _ in range(attempts):
        proposal, squares = _proposal(points, centers)
        if squares < least:
            best = centers
        if proposal is None or squares > (1 - SMALLEST_GAIN) * least:
            break
        least = squares
        centers = _settled(points, proposal, 2)[0]
    return best


def _proposal(points: np.ndarray, centers: np.ndarray) -> tuple[np.ndarray | None, float]:
    """Propose which centres to take away and which cells to split.

    Taking a centre away costs what its points have further to the second nearest one. Splitting a cell wins the squares
    between the two halves along its longest axis, or more once they settle: a pair is taken when the gain is above
    `EXPECTED_GAIN` of the cost. Gives proposed centres `[k, 3]`, None where there is nothing to win, and the sum of
    squared chords of those given.
    """
    k = len(centers)
    if k == 1:
        return None, np.inf
    chord, number = _query(centers, points, 2)
    label = number[:, 0]
    square = chord**2  # (n, 2)
    squares = float(square[:, 0].sum())
    cost = np.bincount(label, weights=square[:, 1] - square[:, 0], minlength=k)
    counts = np.bincount(label, minlength=k)
    mean = np.where((counts > 0)[:, None], _sums(label, points, k) / np.maximum(counts, 1)[:, None], centers)
    off = points - mean[label]  # (n, 3)
    scatter = np.stack([_sums(label, off * off[:, [axis]], k) for axis in range(3)], axis=1)  # (k, 3, 3)
    axis = np.linalg.eigh(scatter)[1][:, :, 2]  # (k, 3)
    along = np.einsum("nd,nd->n", off, axis[label])
    ahead = along > 0
    half = np.bincount(label[ahead], weights=along[ahead], minlength=k)  # the other half sums to minus this
    n_ahead = np.bincount(label[ahead], minlength=k)
    ahead_by, behind_by = half / np.maximum(n_ahead, 1), half / np.maximum(counts - n_ahead, 1)
    gain = half * (ahead_by + behind_by)

    taken, split = _pairs(cost, gain, _query(centers, centers, 2)[1])
    if not len(taken):
        return None, squares
    proposal = mean.copy()
    proposal[split] = mean[split] + axis[split] * ahead_by[split, None]
    proposal[taken] = mean[split] - axis[split] * behind_by[split, None]
    return _on_sphere(proposal), squares


def _pairs(cost: np.ndarray, gain: np.ndarray, neighbours: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Centres to take away and cells to split, of one length, at most a quarter of all.

    By the cost `[k]` of taking each centre away and the gain `[k]` of splitting each cell. Of the `neighbours [k, 2]`,
    each centre's nearest, itself among them, one must stay, or the cost does not hold.
    """
    k = len(cost)
    split = np.argsort(-gain, kind="stable")[: max(1, k // 4)]
    gone, stays = np.zeros(k, dtype=bool), np.zeros(k, dtype=bool)
    stays[split[0]] = True
    taken: list[int] = []
    for center in np.argsort(cost, kind="stable"):
        if len(taken) == len(split) or gone[split[len(taken)]]:
            break
        into = split[len(taken)]
        if cost[center] * EXPECTED_GAIN >= gain[into]:
            break
        neighbour = neighbours[center, 0] if neighbours[center, 0] != center else neighbours[center, 1]
        if center == into or stays[center] or gone[neighbour]:
            continue
        taken.append(int(center))
        gone[center] = True
        stays[neighbour] = stays[into] = True
    return np.asarray(taken, dtype=np.int64), split[: len(taken)]
