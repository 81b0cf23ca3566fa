"""Seams between windows: nuclei that one, two or four windows report are kept once."""

import numpy as np

from muse_pipeline.core.types import Frame
from muse_pipeline.nuclei.pairs import SeamResolver, report_window
from muse_pipeline.nuclei.table import Nuclei
from muse_pipeline.store.grid import WindowGrid

MPP = 0.5
GRID = WindowGrid((768, 768), input_px=320, halo_px=32)  # 3 x 3 cores of 256 px
SAME_PX = 2.0 / MPP


def resolve(true_xy, jitter=0.0, missed_by=(), seed=0, n_parts=1):
    """Let each window report the nuclei at ``true_xy`` with errors of its own, and resolve the
    seams.
    """
    generator = np.random.default_rng(seed)
    reports = []
    for window in range(GRID.shape[0] * GRID.shape[1]):
        seen = np.array(
            [xy for index, xy in enumerate(true_xy) if (index, window) not in missed_by]
        ).reshape(-1, 2)
        seen = seen + generator.uniform(-jitter, jitter, seen.shape) - GRID.origin_xy(window)
        reports.append(report_window(Nuclei(seen, Frame.WINDOW), window, GRID, GRID.whole, MPP))
    nuclei = Nuclei.concatenate(reports)
    window = np.repeat(np.arange(len(reports)), [len(report) for report in reports])
    return nuclei[np.concatenate(list(numbers_of(nuclei.xy, window, n_parts)))]


def numbers_of(xy, window, n_parts=1):
    """Yield the indices of the kept reports, in output order, if reports are added in ``n_parts``
    parts.
    """
    seams = SeamResolver(GRID, MPP)
    for part in np.array_split(np.arange(len(window)), n_parts):
        yield seams.add(xy[part], window[part])
        assert seams.n_decided <= part.max(initial=0)
    yield seams.finish()
    assert seams.n_decided == len(window)


def test_a_nucleus_on_a_seam_is_one_nucleus_however_the_windows_position_it():
    on_seams, in_corners = [(256, 100), (100, 256), (512, 600)], [(256, 256), (512, 256)]
    for seed in range(50):
        assert len(resolve(on_seams + in_corners, jitter=SAME_PX / 3, seed=seed)) == 5


def test_two_nuclei_further_apart_than_the_radius_stay_two():
    apart = 2 * SAME_PX + 1
    assert (
        len(
            resolve(
                [(255, 100), (255 + apart, 100), (400, 256 - apart / 2), (400, 256 + apart / 2)],
                jitter=0.5,
            )
        )
        == 4
    )


def test_two_close_nuclei_of_one_window_are_never_united():
    assert len(resolve([(100, 100), (102, 100)])) == 2
    assert len(resolve([(256, 100), (256, 102.5)])) == 2


def test_a_report_that_contains_a_window_takes_no_other_of_it():
    """Window 0 reports two nuclei; window 1's report of the second lies between them, close to
    both.
    """
    xy = np.array([[253.8, 100], [259.8, 100], [257, 100]])
    assert np.concatenate(list(numbers_of(xy, np.array([0, 0, 1])))).tolist() == [0, 2]


def test_a_report_beyond_its_own_core_counts_only_if_the_neighbour_confirms_it():
    # (250, 100) is in the core of window 0; window 1 reports it too, because it is within 4 um
    # of window 1.
    assert len(resolve([(250.0, 100.0)])) == 1
    assert len(resolve([(250.0, 100.0)], missed_by={(0, 0)})) == 0
    assert len(resolve([(250.0, 100.0)], missed_by={(0, 1)})) == 1


def test_the_report_deeper_inside_its_core_stays_and_further_ones_are_others():
    found = resolve([(257.0, 100.0)])
    assert found.xy.tolist() == [[257, 100]]
    # the first is 2 px inside its core; reports further apart than 2 um are of different nuclei
    for x, kept in ((256.5, [0]), (257.9, [0]), (258.1, [0, 1])):
        xy = np.array([(254.0, 100.0), (x, 100.0)])
        assert np.concatenate(list(numbers_of(xy, np.array([0, 1])))).tolist() == kept


def test_reports_of_two_neighbours_do_not_confirm_each_other_against_the_owner():
    """Window 0 reports a nucleus 4.25 um inside its core; windows report nuclei up to 4 um outside
    theirs.
    """
    xy = np.array([(247.5, 247.5), (249.0, 249.0), (249.0, 249.5)])
    assert np.concatenate(list(numbers_of(xy, np.array([0, 1, 3])))).tolist() == [0]


def test_random_nuclei_all_come_back_once_and_in_a_fixed_order():
    generator = np.random.default_rng(1)
    cells = np.stack(np.meshgrid(np.arange(76), np.arange(76)), -1).reshape(-1, 2)
    true = cells * 10 + 4 + generator.uniform(-1, 1, cells.shape)
    found = resolve(true)
    assert len(found) == len(true)
    order = np.lexsort((found.xy[:, 0], found.xy[:, 1]))
    expected = true[np.lexsort((true[:, 0], true[:, 1]))]
    assert np.allclose(found.xy[order], expected, atol=1e-9)
    for n_parts in (3, 17, 1000):
        assert np.array_equal(resolve(true, n_parts=n_parts).xy, found.xy)


def test_rows_without_windows_are_no_seam():
    xy, window = np.array([(100.0, 100.0), (100.0, 600.0)]), np.array([0, 6])
    assert [numbers.tolist() for numbers in numbers_of(xy, window, n_parts=2)] == [[], [], [0, 1]]
    seams = SeamResolver(GRID, MPP)
    assert seams.add(np.zeros((0, 2)), np.zeros(0, int)).tolist() == seams.finish().tolist() == []
