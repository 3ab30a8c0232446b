"""``main()``: the command. Nothing is imported before an interrupt is heeded, for that takes a while."""

from engine.cli.status import say_interrupted


def main(argv: list[str] | None = None) -> int:
    """Run the command line ``argv`` and return its exit status (see ``engine.cli.status``).

    None: the process's own command line, in a process that is this command and nothing else. An error nobody expected
    is told in one line; its traceback too when ``OFFLINE_ENGINE_TRACEBACK`` is set.
    """
    try:
        return _main(argv)
    except KeyboardInterrupt:  # in the moments before and after `dispatch`, which takes care of its own
        return say_interrupted()


def _main(argv: list[str] | None) -> int:
    # ruff: noqa: PLC0415
    from engine.cli import process

    if argv is None:
        process.begin()
    from engine.cli.dispatch import dispatch

    code = dispatch(argv, process.hear_interrupts)
    if argv is None:
        process.end()
    return code
