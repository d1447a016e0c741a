"""Where the command starts: an interrupt while its libraries load is one line, as it is later."""

import gc
import sys


def main() -> None:
    """Load the command and run it."""
    gc.disable()  # libraries are no garbage: not to look for any saves a third of loading them
    try:
        from mnndask.cli import main as run
    except KeyboardInterrupt:
        sys.stderr.write("mnndask: interrupted; nothing was written\n")
        sys.exit(130)
    gc.freeze()  # nor among them later
    gc.enable()
    run()


if __name__ == "__main__":
    main()
