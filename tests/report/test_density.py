import numpy as np

from muse_pipeline.report.density import CELL_UM, choose_fields, count_nuclei


def nuclei_at(*positions, mpp=(0.25, 0.25)):
    """(xy, label) of nuclei; each position (column, row, label, n) gives ``n`` nuclei in the middle
    of that cell.
    """
    xy = [
        ((column + 0.5) * CELL_UM / mpp[0], (row + 0.5) * CELL_UM / mpp[1])
        for column, row, _, n in positions
        for _ in range(n)
    ]
    label = [label for _, _, label, n in positions for _ in range(n)]
    return np.array(xy, float).reshape(-1, 2), np.array(label, np.int32)


def test_counts_by_cell_and_class_whatever_the_batches():
    xy, label = nuclei_at((0, 0, 0, 3), (5, 2, 1, 4), (5, 2, -1, 2), mpp=(0.25, 0.5))
    size_px = (8 * 256, 6 * 128)
    whole = count_nuclei([(xy, label)], size_px, (0.25, 0.5), 2)
    split = count_nuclei([(xy[:4], label[:4]), (xy[4:], label[4:])], size_px, (0.25, 0.5), 2)
    assert whole.counts.shape == (3, 6, 8)
    assert whole.counts[:, 2, 5].tolist() == [0, 4, 2]
    assert whole.counts[:, 0, 0].tolist() == [3, 0, 0]
    assert whole.counts.sum() == len(xy)
    np.testing.assert_array_equal(whole.counts, split.counts)


def test_density_is_per_mm2():
    grid = count_nuclei([nuclei_at((0, 0, 0, 41))], (4096, 4096), (0.25, 0.25), 1)
    assert grid.per_mm2[0, 0] == 41 / 0.064**2


def test_three_fields_densest_mixed_typical_without_overlap():
    positions = [
        (2, 2, 0, 90),
        (14, 2, 0, 30),
        (14, 2, 1, 30),
        (2, 14, 0, 9),
        (14, 14, 0, 50),
        (8, 8, 0, 2),
    ]
    fields = choose_fields(
        count_nuclei([nuclei_at(*positions)], (20 * 256, 20 * 256), (0.25, 0.25), 2)
    )
    assert [field.caption for field in fields] == ["densest", "most mixed", "typical density"]
    holds = [
        [(x * CELL_UM, y * CELL_UM) for x, y, *_ in positions if _inside(field, x, y)]
        for field in fields
    ]
    assert (2 * CELL_UM, 2 * CELL_UM) in holds[0]
    assert (14 * CELL_UM, 2 * CELL_UM) in holds[1]
    assert (14 * CELL_UM, 14 * CELL_UM) in holds[2]
    for i, one in enumerate(fields):
        for other in fields[:i]:
            assert (
                max(abs(a - b) for a, b in zip(one.xy_um, other.xy_um, strict=True)) >= one.side_um
            )


def _inside(field, column, row):
    return all(
        0 <= (cell + 0.5) * CELL_UM - corner < field.side_um
        for cell, corner in zip((column, row), field.xy_um, strict=True)
    )


def test_fields_lie_on_the_slide_and_a_slide_smaller_than_a_field_has_one():
    grid = count_nuclei([nuclei_at((9, 9, 0, 50))], (2400, 2400), (0.25, 0.25), 1)
    assert all(max(field.xy_um) + field.side_um <= 600 for field in choose_fields(grid))
    small = count_nuclei([nuclei_at((0, 0, 0, 5))], (400, 300), (0.25, 0.25), 1)
    assert [(field.xy_um, field.caption) for field in choose_fields(small)] == [
        ((0.0, 0.0), "whole image")
    ]


def test_no_nuclei_no_fields():
    assert choose_fields(count_nuclei([], (4096, 4096), (0.25, 0.25), 1)) == []
