"""Slow literal definitions of the metrics and random label maps, against which the fast ones are tested."""

import itertools
import math

import numpy as np
from scipy.optimize import linear_sum_assignment


def random_label_map(rng, size=20, nuclei=8):
    """Rectangles painted over one another: touching, nested, split into pieces, cut by the frame."""
    label_map = np.zeros((size, size), np.int64)
    for number in range(1, int(rng.integers(0, nuclei + 1)) + 1):
        y, x = rng.integers(0, size, 2)
        height, width = rng.integers(1, size // 2, 2)
        label_map[y : y + height, x : x + width] = number
    return label_map


def random_pair(rng, size=20, nuclei=8):
    """A true map and either an unrelated prediction or the truth shifted, with some nuclei lost, merged and added."""
    true = random_label_map(rng, size, nuclei)
    if rng.random() < 0.3:
        return true, random_label_map(rng, size, nuclei)
    pred = np.roll(true, rng.integers(-2, 3, 2), (0, 1))
    for number in np.unique(pred)[1:]:
        fate = rng.random()
        if fate < 0.15:
            pred[pred == number] = 0
        elif fate < 0.3:
            pred[pred == number] = 1
    extra = random_label_map(rng, size, 2)
    return true, np.where((extra > 0) & (pred == 0), extra + 100, pred)


def renamed(rng, label_map):
    """The same nuclei under other ids, with gaps, and {old id: new id}."""
    old = [number for number in np.unique(label_map) if number]
    new = rng.permutation(np.arange(1, 3 * len(old) + 1))[: len(old)] * 7
    result = np.zeros_like(label_map)
    for before, after in zip(old, new, strict=True):
        result[label_map == before] = after
    return result, dict(zip(map(int, old), map(int, new), strict=True))


def masks(label_map):
    """{id: bool mask}, in the order in which a raster scan meets the nuclei."""
    scan = list(dict.fromkeys(label_map.ravel().tolist()))
    return {number: label_map == number for number in scan if number}


def intersection_and_union(a, b):
    return int((a & b).sum()), int((a | b).sum())


def dice(true, pred):
    total = (true > 0).sum() + (pred > 0).sum()
    return 2 * ((true > 0) & (pred > 0)).sum() / total if total else math.nan


def dice2(true, pred):
    if not true.any() and not pred.any():
        return math.nan
    shared = total = 0
    for t, p in itertools.product(masks(true).values(), masks(pred).values()):
        if (t & p).any():
            shared += (t & p).sum()
            total += t.sum() + p.sum()
    return 2 * shared / total if total else 0.0


def aji(true, pred):
    used, intersection, union = set(), 0, 0
    pred_masks = masks(pred)
    for t in masks(true).values():
        best = None
        for number, p in pred_masks.items():
            shared, joined = intersection_and_union(t, p)
            if shared and (best is None or (shared / joined, shared) > best[0]):
                best = ((shared / joined, shared), number, joined)
        if best is None:
            union += t.sum()
        else:
            (_, shared), number, joined = best
            used.add(number)
            intersection += shared
            union += joined
    union += sum(p.sum() for number, p in pred_masks.items() if number not in used)
    return intersection / union if union else math.nan


def aji_plus(true, pred):
    """And the summed IoU of the pairing, since several pairings can be best."""
    t_masks, p_masks = list(masks(true).values()), list(masks(pred).values())
    iou = np.zeros((len(t_masks), len(p_masks)))
    for (i, t), (j, p) in itertools.product(enumerate(t_masks), enumerate(p_masks)):
        shared, joined = intersection_and_union(t, p)
        iou[i, j] = shared / joined
    pairs = [(i, j) for i, j in zip(*linear_sum_assignment(-iou), strict=True) if iou[i, j] > 0]
    intersection = sum((t_masks[i] & p_masks[j]).sum() for i, j in pairs)
    union = sum((t_masks[i] | p_masks[j]).sum() for i, j in pairs)
    union += sum(t.sum() for i, t in enumerate(t_masks) if i not in {i for i, _ in pairs})
    union += sum(p.sum() for j, p in enumerate(p_masks) if j not in {j for _, j in pairs})
    return (intersection / union if union else math.nan), sum(iou[i, j] for i, j in pairs)


def panoptic(true, pred, threshold=0.5):
    """TP, FP, FN, summed IoU."""
    hits, ious = 0, 0.0
    t_masks, p_masks = masks(true), masks(pred)
    for t, p in itertools.product(t_masks.values(), p_masks.values()):
        shared, joined = intersection_and_union(t, p)
        if shared / joined > threshold:
            hits += 1
            ious += shared / joined
    return hits, len(p_masks) - hits, len(t_masks) - hits, ious


def pq(true, pred):
    hits, false_positives, false_negatives, ious = panoptic(true, pred)
    if not hits:
        return 0.0 if false_positives or false_negatives else math.nan
    return hits / (hits + false_positives / 2 + false_negatives / 2) * ious / hits


def channels(label_map, types, num_types):
    """(H, W, T) as PanNuke stores masks: the ids of one type in each channel."""
    stack = np.zeros((*label_map.shape, num_types), np.int64)
    for number, kind in types.items():
        if kind:
            stack[label_map == number, kind - 1] = number
    return stack


def with_known_types(true, pred, true_types, unknown):
    """Both maps without the true nuclei of unknown type and the predictions that match one of them at IoU > .5."""
    true, pred = true.copy(), pred.copy()
    t_masks, p_masks = masks(true), masks(pred)
    for t in (number for number in t_masks if true_types[number] == unknown):
        for p in p_masks:
            shared, joined = intersection_and_union(t_masks[t], p_masks[p])
            if shared / joined > 0.5:
                pred[p_masks[p]] = 0
        true[t_masks[t]] = 0
    return true, pred


def boundary(label_map):
    """Boundary pixels as (y, x) tuples."""
    height, width = label_map.shape
    found = []
    for y, x in itertools.product(range(height), range(width)):
        for v, u in ((y - 1, x), (y + 1, x), (y, x - 1), (y, x + 1)):
            neighbour = label_map[v, u] if 0 <= v < height and 0 <= u < width else 0
            if label_map[y, x] and neighbour != label_map[y, x]:
                found.append((y, x))
                break
    return found


def boundary_f1(true, pred, tolerance):
    true_points, pred_points = boundary(true), boundary(pred)
    if not true_points and not pred_points:
        return math.nan

    def near(points, targets):
        return sum(any(math.dist(point, target) <= tolerance for target in targets) for point in points)

    pred_near, true_near = near(pred_points, true_points), near(true_points, pred_points)
    if not pred_near or not true_near:
        return 0.0
    precision, recall = pred_near / len(pred_points), true_near / len(true_points)
    return 2 * precision * recall / (precision + recall)


def detection(true_xy, pred_xy, true_types, pred_types, radius):
    """Lists as HoVer-Net's code keeps them: types of the pairs, of unpaired truths, of unpaired predictions."""
    distances = np.array([[math.dist(t, p) for p in pred_xy] for t in true_xy]).reshape(len(true_xy), len(pred_xy))
    pairs = [(i, j) for i, j in zip(*linear_sum_assignment(distances), strict=True) if distances[i, j] <= radius]
    paired = [(true_types[i], pred_types[j]) for i, j in pairs]
    missed = [kind for i, kind in enumerate(true_types) if i not in {i for i, _ in pairs}]
    spurious = [kind for j, kind in enumerate(pred_types) if j not in {j for _, j in pairs}]
    return paired, missed, spurious


def type_f1(paired, missed, spurious, kind):
    paired = [(t, p) for t, p in paired if kind in (t, p)]
    tp = sum(t == kind and p == kind for t, p in paired)
    tn = sum(t != kind and p != kind for t, p in paired)
    fp = sum(t != kind and p == kind for t, p in paired)
    fn = sum(t == kind and p != kind for t, p in paired)
    bottom = 2 * (tp + tn) + 2 * fp + 2 * fn + spurious.count(kind) + missed.count(kind)
    return 2 * (tp + tn) / bottom if bottom else math.nan


def closest_within_radius(true_xy, pred_xy, radius):
    """Largest summed (radius - distance) over all one-to-one pairings, by trying every one."""
    if not len(true_xy) or not len(pred_xy):
        return 0.0
    head, rest = true_xy[0], true_xy[1:]
    best = closest_within_radius(rest, pred_xy, radius)
    for j, point in enumerate(pred_xy):
        distance = math.dist(head, point)
        if distance <= radius:
            others = [other for k, other in enumerate(pred_xy) if k != j]
            best = max(best, radius - distance + closest_within_radius(rest, others, radius))
    return best


def calibration_error(scores, matched, num_bins):
    error = 0.0
    for m in range(num_bins):
        inside = [
            (score, hit)
            for score, hit in zip(scores, matched, strict=True)
            if m / num_bins <= score < (m + 1) / num_bins or (score == 1 and m == num_bins - 1)
        ]
        if inside:
            confidence = sum(score for score, _ in inside) / len(inside)
            accuracy = sum(hit for _, hit in inside) / len(inside)
            error += len(inside) / len(scores) * abs(confidence - accuracy)
    return error


def mean_defined(values):
    values = [value for value in values if not math.isnan(value)]
    return sum(values) / len(values) if values else math.nan
