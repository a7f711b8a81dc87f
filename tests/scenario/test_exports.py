import imsim.scenario


def test_exported_names_exist_and_are_unique() -> None:
    assert sorted(imsim.scenario.__all__) == sorted(set(imsim.scenario.__all__))
    for name in imsim.scenario.__all__:
        assert hasattr(imsim.scenario, name)
