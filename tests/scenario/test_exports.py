import imsim.scenario


def test_exports() -> None:
    assert sorted(imsim.scenario.__all__) == sorted(set(imsim.scenario.__all__))
    for name in imsim.scenario.__all__:
        assert hasattr(imsim.scenario, name)
