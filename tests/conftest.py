"""For all tests: hypothesis does not measure time, because a busy machine is no bug."""

from hypothesis import settings

settings.register_profile("imsim", deadline=None)
settings.load_profile("imsim")
