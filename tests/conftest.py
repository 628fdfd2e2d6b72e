"""Eight CPU devices, for the tests of meshes, all others run on the first; and a browser for those of pages."""

import jax
import pytest

jax.config.update("jax_num_cpu_devices", 8)


@pytest.fixture(scope="module")
def chromium():
    """Headless Chromium; while it is up `asyncio.run` fails in this thread, so it ends with the module that asked."""
    from tests.browser import launched, program

    executable = program()
    if executable is None:
        pytest.skip("no Chromium or Chrome was found")
    with launched(executable) as browser:
        yield browser
