"""pytest --sanitize: the launches of every test are watched, and a test fails for what is wrong with them."""

import secrets
from contextlib import ExitStack

import pytest
import triton

from tests.interpreter.order import ORDERS
from tests.interpreter.support import INTERPRETED, IS_KNOWN

_SANITIZER = pytest.StashKey()


def pytest_addoption(parser):
    group = parser.getgroup("interpreted kernels")
    group.addoption(
        "--sanitize",
        action="store_true",
        help="run the programs of each launch in another order, and fail a test whose launches hold programs that "
        "conflict, or that leave the tensors given",
    )
    group.addoption(
        "--sanitize-order", choices=ORDERS, default=ORDERS[0], help="of the programs (default: %(default)s)"
    )
    group.addoption("--sanitize-seed", type=int, help="of the shuffled order (default: a new one, which is printed)")


def pytest_configure(config):
    if not config.option.sanitize or not INTERPRETED or not IS_KNOWN:
        return
    from tests.interpreter.sanitizer import Sanitizer

    if config.option.sanitize_seed is None:
        given = getattr(config, "workerinput", {})
        config.option.sanitize_seed = given.get("sanitize_seed", secrets.randbelow(1 << 32))
    stack = ExitStack()
    config.add_cleanup(stack.close)
    sanitizer = Sanitizer(config.option.sanitize_order, config.option.sanitize_seed)
    config.stash[_SANITIZER] = stack.enter_context(sanitizer)


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node):
    """pytest-xdist asks for what a worker is to be given."""
    node.workerinput["sanitize_seed"] = node.config.option.sanitize_seed


def _asked_for(config) -> str:
    return f"--sanitize-order {config.option.sanitize_order} --sanitize-seed {config.option.sanitize_seed}"


def pytest_report_header(config):
    if INTERPRETED and not IS_KNOWN:
        return f"kernels: without bf16 and --sanitize, which need triton 3.7's interpreter (here {triton.__version__})"
    if config.option.sanitize:
        return f"kernels: sanitized, {_asked_for(config)}" if INTERPRETED else "kernels: compiled, and not sanitized"
    return None


def _watched(item, phase):
    """Fail the test for what was found in one phase of it; where it fails anyway, say both."""
    sanitizer = item.config.stash.get(_SANITIZER, None)
    if sanitizer is None:
        return (yield)
    error = None
    try:
        result = yield
    except BaseException as raised:
        error = raised
    if found := "\n".join(map(str, sanitizer.findings.take())):
        found += f"\n(pytest --sanitize {_asked_for(item.config)})"
        if error is None or isinstance(error, pytest.skip.Exception):
            pytest.fail(found, pytrace=False)
        item.add_report_section(phase, "sanitizer", found)
    if error is not None:
        raise error
    return result


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item):
    sanitizer = item.config.stash.get(_SANITIZER, None)
    if sanitizer is None or item.get_closest_marker("unwatched") is None:
        return (yield)
    with sanitizer.paused():
        return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_setup(item):
    if sanitizer := item.config.stash.get(_SANITIZER, None):
        sanitizer.order.restart(item.nodeid)
    return (yield from _watched(item, "setup"))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item):
    return (yield from _watched(item, "call"))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown(item):
    return (yield from _watched(item, "teardown"))
