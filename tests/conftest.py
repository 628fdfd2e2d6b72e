"""Eight CPU devices for meshes; compiled programs kept between runs; the tests of one theorem; a browser for pages."""

import ctypes
import gc
import hashlib
import os
import platform
import re
import sys
import time
from pathlib import Path

import jax
import jaxlib
import pytest
from jax.experimental.compilation_cache import compilation_cache

from docs.generate import marks
from docs.generate.repository import ROOT
from jaxsoftmax._reduction import blocked_cpu


def cache_folder():
    """A folder outside of the checkout for this jaxlib on this kind of CPU, whose instructions XLA compiles to."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else [platform.processor()]
    features = sorted({line for line in lines if line.startswith(("model name", "flags", "Features"))})
    key = hashlib.sha256("\n".join([platform.machine(), *features]).encode()).hexdigest()[:12]
    caches = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return caches / "jaxsoftmax" / "tests" / f"jaxlib-{jaxlib.__version__}-{key}"


# The processes that tests start share the cache, hence the environment. What a developer has set there is kept.
CACHE = {
    "jax_compilation_cache_dir": str(cache_folder()),
    "jax_persistent_cache_min_compile_time_secs": 0,
    "jax_persistent_cache_min_entry_size_bytes": -1,
}
KEPT_FOR = 30 * 24 * 3600  # seconds
LARGEST = 1500 << 20  # bytes of a process
for setting, chosen in CACHE.items():
    if setting.upper() not in os.environ:
        os.environ[setting.upper()] = str(chosen)
        jax.config.update(setting, chosen)
jax.config.update("jax_num_cpu_devices", 8)


def pytest_addoption(parser):
    """Adds an option, for the tests of one theorem."""
    parser.addoption("--theorem", metavar="M5", help="run only what tests this theorem")


def pytest_collection_modifyitems(config, items):
    """Keeps what carries the theorem's number, as `# (M5)` within the test or as a case's name."""
    theorem = config.getoption("--theorem")
    if theorem is None:
        return
    places = {(ROOT / mark.path, mark.function) for mark in marks.of_tests() if mark.theorem == theorem}

    def tests_it(item):
        named = re.search(rf"\[{theorem}\b", item.name)
        return named or (item.path, getattr(item, "originalname", "")) in places

    chosen = [item for item in items if tests_it(item)]
    config.hook.pytest_deselected(items=[item for item in items if item not in chosen])
    items[:] = chosen


def pytest_sessionfinish(session):
    """Removes what the cache has kept for a month: every edit of the package adds programs, and JAX removes none."""
    folder = Path(CACHE["jax_compilation_cache_dir"])
    if hasattr(session.config, "workerinput") or not folder.exists():
        return
    for program in folder.iterdir():
        if time.time() - program.stat().st_mtime > KEPT_FOR:
            program.unlink(missing_ok=True)


def pytest_collection_finish():
    """What is imported stays: `forgotten_programs` need not search all of it after each file."""
    gc.freeze()


@pytest.fixture(autouse=True, scope="module")
def forgotten_programs():
    """Programs end with the file that compiled them: a worker that kept them all would grow to several GB."""
    yield
    _forget()


@pytest.fixture(autouse=True)
def small_worker():
    """Programs end with a test, too, that leaves a worker with much memory."""
    yield
    statm = Path("/proc/self/statm")
    if statm.exists() and int(statm.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") > LARGEST:
        _forget()


def _forget():
    jax.clear_caches()
    gc.collect()
    if sys.platform == "linux" and hasattr(libc := ctypes.CDLL(None), "malloc_trim"):
        libc.malloc_trim(0)  # glibc keeps what is freed


@pytest.fixture(autouse=True, scope="module")
def rows_on_one_device(request):
    """Rows are reduced as on a CPU without a second device, where a module isn't marked as one about a mesh."""
    with pytest.MonkeyPatch.context() as patch:
        if request.node.get_closest_marker("mesh") is None:
            patch.setattr(blocked_cpu, "_on_one_device", lambda: True)
        yield


@pytest.fixture(scope="module")
def fresh_compilation():
    """Programs are compiled, not read from the cache, which doesn't keep all that a program says of itself."""
    enabled = jax.config.jax_enable_compilation_cache
    jax.config.update("jax_enable_compilation_cache", False)
    compilation_cache.reset_cache()  # whether it is used is asked once
    yield
    jax.config.update("jax_enable_compilation_cache", enabled)
    compilation_cache.reset_cache()


@pytest.fixture(scope="module")
def chromium():
    """Headless Chromium; while it is up `asyncio.run` fails in this thread, so it ends with the module that asked."""
    from tests.browser import launched, program

    executable = program()
    if executable is None:
        pytest.skip("no Chromium or Chrome was found")
    with launched(executable) as browser:
        yield browser
