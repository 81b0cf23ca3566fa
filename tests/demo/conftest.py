import pytest

from muse_pipeline.demo.write import write_demo

AREA_MM2 = 0.06


@pytest.fixture(scope="session")
def tissue(planned):
    return planned(AREA_MM2, seed=0)


@pytest.fixture(scope="session")
def demo(tissue, tmp_path_factory):
    folder = tmp_path_factory.mktemp("demo")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            "muse_pipeline.demo.write.plan_tissue", lambda area_mm2, seed: tissue
        )  # saves seconds per test
        write_demo(folder, AREA_MM2, threads=1)
    return folder
