import numpy as np
import pytest

from geocbm.errors import ParameterError
from geocbm.models.retrieval import nearest_class_mean

# Directions of four training images, two of each class (5 and 9), then three to name; their lengths must not matter.
FEATURES = np.array([[1.0, 0.1], [3.0, -0.3], [0.1, 1.0], [-0.2, 2.0], [9.0, 1.0], [0.1, 0.5], [1.0, 0.9]])
LABELS = np.array([5, 5, 9, 9, 5, 9, 9])
TRAIN, ROWS = np.arange(4), np.arange(4, 7)


def test_the_class_of_the_nearest_mean_is_named():
    # The last one points a little nearer to class 5, though it is of class 9.
    assert nearest_class_mean(FEATURES, LABELS, TRAIN, ROWS).tolist() == [5, 9, 5]


def test_what_all_images_share_does_not_count():
    # A large common part makes all cosines almost 1, yet the answers stay.
    shifted = np.concatenate(
        [FEATURES / np.linalg.norm(FEATURES, axis=1, keepdims=True), np.full((7, 1), 50.0)], axis=1
    )
    assert nearest_class_mean(shifted, LABELS, TRAIN, ROWS).tolist() == [5, 9, 5]


def test_impossible_questions_are_named():
    with pytest.raises(ParameterError, match="train_rows is empty"):
        nearest_class_mean(FEATURES, LABELS, TRAIN[:0], ROWS)
    with pytest.raises(ParameterError, match="labels has 3 entries for 7 features"):
        nearest_class_mean(FEATURES, LABELS[:3], TRAIN[:2], ROWS)
